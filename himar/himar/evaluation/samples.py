"""Makes the images of an evaluation, of classes or texts: in parts that processes share and a killed run keeps."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from himar_kernels import InputError
from himar_kernels.shared.files import new_file, remove_unfinished, require_writable_folder
from himar_kernels.shared.run_folder import claim_folder, require_same_run

from ..family import FamilyModel, model_family
from .extractor import OnImages

if TYPE_CHECKING:
    from torch import Tensor

    from ..text.encoder import TextEncoder

PROMPTS = "prompts"
"""Array of the texts beside the images."""


@dataclass(frozen=True)
class SampleRun:
    """What decides every pixel of a set of images; parts of two different runs never mix.

    model_sha256, vae_sha256: of the weights' files; config: the model's; sampling: steps and guidance; images: how
    many; seed: of all of them; per_class: equally many of every class (image i shows class i mod classes) instead of
    classes drawn at random; chunk: images per part; weights: the entry of the model's file, where it holds several;
    prompts: of a model from text, one per image; text_sha256: of the text tower that encodes them.
    """

    model_sha256: str
    vae_sha256: str
    config: dict[str, Any]
    sampling: dict[str, Any]
    images: int
    seed: int
    per_class: bool = True
    chunk: int = 64
    weights: str | None = None
    prompts: tuple[str, ...] | None = None
    text_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.images < 1 or self.chunk < 1:
            raise InputError(f"{self.images} images in parts of {self.chunk} were asked for; both must be at least 1.")
        if self.prompts is not None:
            if len(self.prompts) != self.images:
                raise InputError(
                    f"{self.images} images were asked for with {len(self.prompts)} prompts; give one each."
                )
        elif self.per_class and self.images % self.config["classes"]:
            raise InputError(
                f"{self.images} images cannot be shared equally by {self.config['classes']} classes; ask for a "
                f"multiple of {self.config['classes']}, or for random classes."
            )

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.images // self.chunk)

    @property
    def size(self) -> int:
        """Height and width of an image in pixels."""
        return self.config["img_size"]

    def labels(self) -> NDArray[np.int64]:
        """Class of every image (images,)."""
        if self.per_class:
            return np.arange(self.images) % self.config["classes"]
        generator = np.random.Generator(np.random.Philox(key=self.seed))
        return generator.integers(self.config["classes"], size=self.images)

    def indices(self, part: int) -> range:
        """Image indices of a part."""
        return range(part * self.chunk, min((part + 1) * self.chunk, self.images))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that tell this run from others; the prompts by their sha256."""
        values = asdict(self)
        prompts = values.pop("prompts")
        digest = None if prompts is None else hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
        return {**values, "prompts_sha256": digest}


def make_parts(
    run: SampleRun,
    model: FamilyModel,
    vae: nn.Module,
    folder: Path,
    shard: int = 1,
    shards: int = 1,
    on_images: OnImages | None = None,
    encoder: TextEncoder | None = None,
) -> None:
    """Make the images of one shard, 1 … shards: every shards-th part that `folder` does not have yet.

    An image depends on the run's seed, its index and its class or prompt only, so shards never overlap and a killed one
    can continue. encoder: of the prompts, where the run has some. Each part is written in one move. Raises InputError
    for a shard out of range, a folder of another run, or one that cannot be written.
    """
    if not 1 <= shard <= shards:
        raise InputError(f"shard is {shard}/{shards}; it must be 1/{shards} to {shards}/{shards}.")
    family = model_family(model.family)
    sampling = family.sampling_from_dict(model, run.sampling)
    require_writable_folder(folder)
    claim_folder(folder, run.to_dict())
    labels = run.labels() if run.prompts is None else None
    mine = range(shard - 1, run.parts, shards)
    total = sum(len(run.indices(part)) for part in mine)
    done = 0
    for part in mine:
        indices = run.indices(part)
        if not _is_whole(_part(folder, part), len(indices), run.size):
            chosen = None if labels is None else labels[indices.start : indices.stop].tolist()
            images = family.images(
                model,
                vae,
                chosen,
                seed=run.seed,
                sampling=sampling,
                first_index=indices.start,
                contexts=_contexts(run, indices, encoder),
            )
            _write_part(_part(folder, part), images)
        done += len(indices)
        if on_images:
            on_images(done, total)


def merge_parts(run: SampleRun, folder: Path, out: Path) -> None:
    """Write all parts as one ADM-style `.npz`, then delete the parts: arr_0 the images, arr_1 their classes or
    `prompts` their texts. Raises InputError when parts are missing or the file cannot be written.
    """
    require_whole(run, folder)
    name, shown = ("arr_1", run.labels()) if run.prompts is None else (PROMPTS, np.array(run.prompts, dtype=np.str_))
    remove_unfinished(out)  # what a killed merge left, which may be 10 GB
    # Straight from part to part: 50,000 images at once would take 10 GB of memory. ZipInfo carries no time of day,
    # so that the same images are the same file.
    with new_file(out) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as stream:
            shape = (run.images, run.size, run.size, 3)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for images in read_parts(run, folder):
                stream.write(images.tobytes())
        with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as stream:
            np.save(stream, shown)
    shutil.rmtree(folder, ignore_errors=True)


def require_whole(run: SampleRun, folder: Path) -> None:
    """Raise InputError unless a folder holds every part of a run."""
    require_same_run(folder, run.to_dict())
    whole = (_is_whole(_part(folder, part), len(run.indices(part)), run.size) for part in range(run.parts))
    missing = [part for part, is_whole in enumerate(whole) if not is_whole]
    if missing:
        raise InputError(
            f"{len(missing)} of {run.parts} parts are missing in {folder}, the first is part {missing[0]}; "
            f"let every shard finish first."
        )


def read_parts(run: SampleRun, folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of every part in order, uint8 (m, size, size, 3)."""
    for part in range(run.parts):
        yield np.load(_part(folder, part))


def _contexts(run: SampleRun, indices: range, encoder: TextEncoder | None) -> Tensor | None:
    if run.prompts is None:
        return None
    assert encoder is not None
    contexts, _ = encoder.encode(run.prompts[indices.start : indices.stop])
    return contexts


def _write_part(path: Path, images: NDArray[np.uint8]) -> None:
    with new_file(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, images)


def _part(folder: Path, part: int) -> Path:
    return folder / f"part-{part:06d}.npy"


def _is_whole(path: Path, count: int, size: int) -> bool:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return images.dtype == np.uint8 and images.shape == (count, size, size, 3)
