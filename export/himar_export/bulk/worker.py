"""Makes the parts of a bulk run on a worker: one pipeline per process, a part at a time, files as bytes.

Ray imports this on every machine, which needs himar's runtime and pyarrow, and no PyTorch.
"""

from __future__ import annotations

import io
import json
import logging
import platform
from typing import Any

import numpy as np
import pyarrow as pa

from himar_kernels import EngineError, HimarError
from himar_runtime import Pipeline, Result
from himar_runtime.pipeline import himar_version
from himar_runtime.png import encode_png

from .run import ARRAYS, BulkRun

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("names", pa.list_(pa.string())),
        ("files", pa.list_(pa.large_binary())),
        ("error", pa.string()),
    ]
)
"""A row is a part: the names of its files and their bytes, or why there are none."""


class PartMaker:
    """Makes parts on one device. Called by Ray with tables of a column "part"; answers with tables of `SCHEMA`.

    An exception becomes the row's error: it would reach the user as several tracebacks of Ray's.
    """

    def __init__(self, run: BulkRun, device: str, threads: int | None) -> None:
        """device, threads: as for Pipeline.load. The bundle is loaded with the first part."""
        self._run, self._device, self._threads = run, device, threads
        self._pipeline: Pipeline | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Make the parts of a table's rows."""
        return pa.Table.from_pylist([self._row(part) for part in table["part"].to_pylist()], SCHEMA)

    def _row(self, part: int) -> dict[str, object]:
        try:
            files = self._files(part)
        except HimarError as error:
            return _failed(part, str(error))
        except Exception as error:
            log.exception("part %d failed unexpectedly", part)
            return _failed(part, f"an unexpected {type(error).__name__}: {error}; the worker's log says more.")
        return {"part": part, "names": list(files), "files": list(files.values()), "error": None}

    def _files(self, part: int) -> dict[str, bytes]:
        if self._pipeline is None:
            self._pipeline = self._load()
        run = self._run
        indices = run.indices(part)
        result = self._pipeline.generate(
            **run.shown(indices), seed=run.seed, sampling=run.sampling, first_index=indices.start
        )
        return encode_part(run, result)

    def _load(self) -> Pipeline:
        run, own = self._run, himar_version()
        if own != run.himar_version:
            raise EngineError(
                f"himar is {own} here, but {run.himar_version} where the run was started; install the same everywhere."
            )
        pipeline = Pipeline.load(run.bundle, device=self._device, threads=self._threads)
        if pipeline.bundle.id != run.bundle_id:
            raise EngineError(
                f"{run.bundle} is another bundle here than where the run was started: its id begins with "
                f"{pipeline.bundle.id[:12]}, not {run.bundle_id[:12]}; copy it again."
            )
        return pipeline


def _failed(part: int, sentence: str) -> dict[str, object]:
    return {"part": part, "names": [], "files": [], "error": f"on {platform.node()}: {sentence}"}


def encode_part(run: BulkRun, result: Result) -> dict[str, bytes]:
    """Return the files of a part, by their names, of a result that is complete."""
    if run.output == "png":
        assert result.images is not None  # a bundle without a decoder was refused
        pairs = zip(result.images, result.recipes, strict=True)
        return {recipe.file_name(): encode_png(pixels, [recipe]) for pixels, recipe in pairs}
    if run.output == "pixels":
        arrays: dict[str, Any] = {"arr_0": result.images}
    else:
        recipes = json.dumps([recipe.to_dict() for recipe in result.recipes])
        arrays = {"latents": result.latents, **result.arrays, "labels": result.labels, "recipes": np.array(recipes)}
    data = io.BytesIO()
    np.savez(data, **arrays)
    return {ARRAYS: data.getvalue()}
