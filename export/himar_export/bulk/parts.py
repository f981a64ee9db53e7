"""Keeps the finished parts of a bulk run in the folder OUT.parts, and makes OUT of them when none is missing.

A part takes its name when it is whole, so that what is there is what is done: there is no other record that could
disagree with it.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError
from himar_kernels.shared.files import new_file, new_folder, refusal, remove_unfinished
from himar_kernels.shared.run_folder import RUN_FILE, claim_folder

from .run import ARRAYS, BulkRun

_NAME = re.compile("part-([0-9]{6,})")


class PartsFolder:
    """The folder of a run's parts. One process writes it, the one that the user started."""

    def __init__(self, run: BulkRun, out: Path) -> None:
        """Claim OUT.parts for a run. Raises InputError where it is of another run or cannot be written."""
        self._run, self._out = run, out
        self.path = out.with_name(f"{out.name}.parts")
        claim_folder(self.path, run.to_dict())
        for left in self.path.glob(".part-*"):  # of a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)

    def missing(self) -> list[int]:
        """Return the parts that are still to be made, in order."""
        found = {int(match[1]) for path in self.path.iterdir() if (match := _NAME.fullmatch(path.name))}
        return [part for part in range(self._run.parts) if part not in found]

    def images(self) -> int:
        """Return how many images are made."""
        return self._run.images - sum(len(self._run.indices(part)) for part in self.missing())

    def write(self, part: int, files: Mapping[str, bytes]) -> None:
        """Write the files of a part, in one move. Raises InputError when they cannot be written."""
        with new_folder(self._part(part)) as folder:
            for name, data in files.items():
                (folder / name).write_bytes(data)

    def finish(self) -> None:
        """Make OUT of all parts, none of which is missing, and remove OUT.parts.

        PNGs stay in a folder for each part. Raises InputError when OUT cannot be written.
        """
        if self._run.output == "png":
            try:
                self.path.rename(self._out)
            except OSError as error:
                raise InputError(refusal(self._out, error)) from error
            (self._out / RUN_FILE).unlink(missing_ok=True)
            return
        remove_unfinished(self._out)
        # Straight from part to part: 50,000 images at once would take 10 GB of memory.
        with new_file(self._out) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
            for name in self._names():
                self._merge(archive, name)
            for name, array in self._whole_arrays().items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
        shutil.rmtree(self.path, ignore_errors=True)

    def remove(self) -> None:
        """Remove OUT.parts, of a run that has not finished a part."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _merge(self, archive: zipfile.ZipFile, name: str) -> None:
        # ZipInfo carries no time of day, so that the same images are the same file.
        with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
            for part, array in enumerate(self._each(name)):
                if part == 0:
                    descr = np.lib.format.dtype_to_descr(array.dtype)
                    shape = (self._run.images, *array.shape[1:])
                    header = {"descr": descr, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(stream, header)
                stream.write(np.ascontiguousarray(array).tobytes())

    def _whole_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is not merged row by row: of pixels what they show, of latents the recipes as one JSON list."""
        run = self._run
        if run.output == "pixels":
            ((name, shown),) = run.shown(range(run.images)).items()
            return {"arr_1": np.array(shown, np.int64)} if name == "labels" else {name: np.array(shown, np.str_)}
        recipes = [recipe for text in self._each("recipes") for recipe in json.loads(str(text))]
        return {"recipes": np.array(json.dumps(recipes))}

    def _names(self) -> list[str]:
        with np.load(self._part(0) / ARRAYS, allow_pickle=False) as arrays:
            return [name for name in arrays.files if name != "recipes"]

    def _each(self, name: str) -> Iterator[NDArray[Any]]:
        for part in range(self._run.parts):
            with np.load(self._part(part) / ARRAYS, allow_pickle=False) as arrays:
                yield arrays[name]

    def _part(self, part: int) -> Path:
        return self.path / f"part-{part:06d}"
