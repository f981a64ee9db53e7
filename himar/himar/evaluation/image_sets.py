"""Reads images to be measured: a folder, or the `arr_0` of an ADM-style `.npz`, a batch at a time."""

from __future__ import annotations

import math
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError

from ..data.crop import UnreadableImageError, check_image, read_pixels, read_square
from ..data.file_check import OnFiles, require_readable
from ..data.tree import Skipped, left_out, list_tree

_IMAGES = "arr_0"


@dataclass(frozen=True)
class Changed:
    """How many images of a set are shown other than they are stored: rotated by EXIF, transparent and put on white."""

    turned: int = 0
    transparent: int = 0


@dataclass(frozen=True)
class ImageSet:
    """Images of one size: source, how many, their height and width; of a folder also its files and what it left out.

    cropped: of every file the centre square is taken, resized to `size`, so that files may be of any size.
    """

    source: Path
    count: int
    size: tuple[int, int]
    files: tuple[Path, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    cropped: bool = False

    def check(self, on_files: OnFiles | None = None) -> Changed:
        """Read every file before the long work, and return how many are shown other than they are stored.

        Raises InputError that names the files that cannot be read or are of another size. An archive's length is known
        since it was opened; a changed byte in it is found when it is read.
        """
        counts, lock = {"turned": 0, "transparent": 0}, threading.Lock()

        def check(path: Path) -> None:
            found = check_image(path)
            if not self.cropped and found.size != self.size:
                raise InputError(_other_size(found.size, self.size))
            with lock:
                counts["turned"] += found.turned
                counts["transparent"] += found.transparent

        require_readable(self.files, check, "remove or replace them; measure images of one size", on_files)
        return Changed(**counts)

    def batches(self, batch: int) -> Iterator[NDArray[np.uint8]]:
        """Yield all images in order, uint8 (m, H, W, 3). Raises InputError when one is damaged or of another size."""
        return self._from_files(batch) if self.files else self._from_archive(batch)

    def _from_files(self, batch: int) -> Iterator[NDArray[np.uint8]]:
        for first in range(0, self.count, batch):
            yield np.stack([_pixels(path, self.size, self.cropped) for path in self.files[first : first + batch]])

    def _from_archive(self, batch: int) -> Iterator[NDArray[np.uint8]]:
        with _open_images(self.source) as (stream, _):
            for first in range(0, self.count, batch):
                shape = (min(batch, self.count - first), *self.size, 3)
                wanted = math.prod(shape)
                data = stream.read(wanted)
                if len(data) < wanted:
                    raise InputError(f"{self.source} is cut short at image {first}; write it again.")
                yield np.frombuffer(data, np.uint8).reshape(shape).copy()  # writable, as torch requires


def open_images(source: Path, crop: int | None = None) -> ImageSet:
    """Open a folder of images, at any depth, or a `.npz` whose arr_0 is uint8 (n, H, W, 3).

    crop: of a folder's images the centre square of the short side is taken and resized to so many pixels (Lanczos), as
    U-ViT's protocol for MS-COCO has it; it changes nothing of an archive. Files are in the order of their names, which
    for MS-COCO is that of its ids. Raises InputError when there is nothing or nothing of that layout, or when a class
    folder is empty.
    """
    if source.is_dir():
        return _open_folder(source, crop)
    if not source.is_file():
        raise InputError(f"{source} does not exist; give a folder of images or an ADM-style .npz.")
    if source.suffix != ".npz":
        raise InputError(f"{source} is neither a folder of images nor an ADM-style .npz.")
    with _open_images(source) as (_, shape):
        return ImageSet(source, shape[0], (shape[1], shape[2]))


def holds_images(source: Path) -> bool:
    """Whether this is a folder, or a `.npz` that has an arr_0. Raises InputError for a damaged `.npz`."""
    return source.is_dir() or _IMAGES in archive_names(source)


def archive_names(path: Path) -> list[str]:
    """Names of the arrays in a `.npz`; what else is in it does not count. Raises InputError when it cannot be read."""
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; give a folder of images or an ADM-style .npz.")
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except Exception as error:  # a damaged archive fails in zipfile, struct or zlib, each in its own way
        raise InputError(f"{path} is damaged or not an .npz file ({error}); write it again.") from error


def _open_folder(folder: Path, crop: int | None) -> ImageSet:
    if (folder / "manifest.json").is_file():
        raise InputError(f"{folder} is a bundle of engines; generate its images first and measure those.")
    tree = list_tree(folder)
    for path in sorted(folder.iterdir()):
        counts = path.is_dir() and left_out(path.name, True) is None
        if counts and not any(name.startswith(f"{path.name}/") for name in tree.files):
            raise InputError(
                f"the class folder {path} is empty, or holds no images; a measurement without a class would mislead."
            )
    if not tree.files:
        raise InputError(f"{folder} holds no images.")
    files = tuple(folder / name for name in tree.files)
    size = _pixels(files[0], None).shape[:2] if crop is None else (crop, crop)
    return ImageSet(folder, len(files), size, files, tree.skipped, crop is not None)


def _pixels(path: Path, size: tuple[int, int] | None, cropped: bool = False) -> NDArray[np.uint8]:
    try:
        pixels = read_square(path, size[0]).pixels if size and cropped else read_pixels(path)
    except UnreadableImageError as error:
        raise InputError(f"{path} is not a readable image ({error}); remove or replace it.") from error
    if size is not None and pixels.shape[:2] != size:
        raise InputError(f"{path}: {_other_size(pixels.shape[:2], size)}; measure images of one size.")
    return pixels


def _other_size(found: tuple[int, ...], first: tuple[int, int]) -> str:
    return f"it is {found[0]}×{found[1]} pixels, but the images before it are {first[0]}×{first[1]}"


@contextmanager
def _open_images(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Yield arr_0 as a stream that stands at its first pixel, and its shape, without reading it into memory."""
    names = archive_names(path)
    if _IMAGES not in names:
        raise InputError(f"{path} has no {_IMAGES}; it holds {', '.join(names[:8]) or 'nothing'}.")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{_IMAGES}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(stream)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or by_columns or min(shape) < 1:
                order = " in column order" if by_columns else ""
                raise InputError(f"{_IMAGES} of {path} is {dtype} {shape}{order}; it must be uint8 (n, H, W, 3).")
            whole, there = math.prod(shape), archive.getinfo(f"{_IMAGES}.npy").file_size - stream.tell()
            if there < whole:
                raise InputError(f"{path} is cut short at image {there * shape[0] // whole}; write it again.")
            yield stream, shape
    except InputError:
        raise
    except Exception as error:  # as above; NumPy's headers add their own
        raise InputError(f"{path} is damaged ({error}); write it again.") from error
