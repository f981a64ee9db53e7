"""Reads the released code's latent cache, a `.npz` of moments per image in class folders, as training data.

It holds one scale, which is all that a single-scale model (MAR) takes. Phase low of the others trains on images of half
the size, whose moments such a cache does not have and no computation gets out of it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import ConfigError, InputError

from ..families.hi_mar.config import ModelConfig
from .file_check import OnFiles, require_readable
from .folder import ImageList, list_images
from .latents import sample_tokens

_PLAIN, _MIRRORED = "moments", "moments_flip"
_LOG_VARIANCE_LIMITS = (-30.0, 20.0)


def is_released_cache(source: Path) -> bool:
    """Whether a folder's first class folder, or a list file's first line, names a `.npz` of moments."""
    first = _first_archive(source)
    if first is None:
        return False
    try:
        with zipfile.ZipFile(first) as archive:
            return f"{_PLAIN}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def refuse_released_cache(source: Path) -> None:
    """Raise InputError, saying what to do with it, for a folder of cached latents where images are wanted."""
    if is_released_cache(source):
        raise InputError(
            f"{source} holds latents that are cached already, a .npz of {_PLAIN} and {_MIRRORED} per image, of one "
            f"scale: give it to himar train --data with a single-scale model as it is; for the other models cache the "
            f"images themselves, for moments at both scales."
        )


def list_released_cache(source: Path) -> ImageList:
    """List a cache's files and classes as `list_images` does images. Raises InputError."""
    return list_images(source, lambda path: path.suffix == ".npz")


class ReleasedLatents:
    """Moments of n images at one scale, read when they are drawn.

    files: the `.npz` files and their classes; each has `moments` and `moments_flip` (2C, h, w): mean, then logarithm of
    the variance, which is cut off at -30 and 20. flip: mirror each image with probability 1/2.
    """

    def __init__(self, files: ImageList, config: ModelConfig, *, flip: bool = True) -> None:
        """Raises ConfigError for a model of two scales, InputError when the first file cannot be read."""
        if not config.single_scale:
            raise ConfigError(
                f"{files.root} holds moments of images of one size ({_PLAIN} and {_MIRRORED}), and this model's phase "
                f"low also trains on moments of the same images at {config.img_size // 2} pixels, which are not there: "
                f"cache the images with himar cache-latents, or train a single-scale model (--variant single-scale)."
            )
        self._paths = [files.path(index) for index in range(len(files.names))]
        self._flip = flip
        self.class_names: Sequence[str] = files.class_names
        self.labels: Tensor = torch.tensor(files.labels)
        try:
            shape = _moments(self._paths[0], _PLAIN).shape
        except InputError as error:
            raise InputError(f"{self._paths[0]} cannot be read: {error}; remove or replace it.") from error
        self.high_shape = (len(self.labels), *shape)
        self.low_shape = (len(self.labels), 2, shape[1], 0, 0)

    def check(self, on_files: OnFiles | None = None, part: slice = slice(None)) -> None:
        """Read every file of a part. Raises InputError that names those that are damaged or of another shape."""

        def check(path: Path) -> None:
            for name in (_PLAIN, _MIRRORED):
                found = _moments(path, name).shape
                if found != self.high_shape[1:]:
                    raise InputError(f"its {name} are of shape {found}, not {self.high_shape[1:]} as the first file's")

        require_readable(self._paths[part], check, "remove or replace them", on_files)

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and none (B, 0, C), times the scale, with their labels (B,).

        Raises InputError, which names the file, when one cannot be read.
        """
        mirrored = torch.rand(len(chosen), generator=generator) < (0.5 if self._flip else 0.0)
        names = [_MIRRORED if flip else _PLAIN for flip in mirrored.tolist()]
        parts = []
        for index, name in zip(chosen.tolist(), names, strict=True):
            try:
                parts.append(torch.from_numpy(_moments(self._paths[index], name)))
            except InputError as error:
                raise InputError(f"{self._paths[index]} cannot be read: {error}; remove or replace it.") from error
        high = sample_tokens(torch.stack(parts), generator) * scale
        return high, high[:, :0], self.labels[chosen]


def _moments(path: Path, name: str) -> NDArray[np.float32]:
    """Return mean and deviation (2, C, h, w) of a file. Raises InputError without the file's name."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = archive[name]
    except KeyError as error:
        raise InputError(f"it has no {name}") from error
    except Exception as error:  # a damaged archive fails in zipfile, struct or zlib, each in its own way
        raise InputError(f"it is not an .npz file, or it is damaged: {error}") from error
    if values.dtype.kind != "f" or values.ndim != 3 or len(values) % 2 or not values.size:
        raise InputError(f"its {name} are {values.dtype} {values.shape}, not floating-point (2C, h, w)")
    if not np.isfinite(values).all():
        raise InputError(f"its {name} hold values that are not finite")
    mean, log_variance = values.astype(np.float32).reshape(2, -1, *values.shape[1:])
    return np.stack([mean, np.exp(0.5 * log_variance.clip(*_LOG_VARIANCE_LIMITS))])


def _first_archive(source: Path) -> Path | None:
    try:
        if source.is_file():
            names = (line.rpartition(" ")[0].strip() for line in source.open(encoding="utf-8", errors="replace"))
            path = next((source.parent / name for name in names if name), None)
            return path if path is not None and path.suffix == ".npz" else None
        folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
        return next((path for folder in folders[:1] for path in sorted(folder.rglob("*.npz"))), None)
    except OSError:
        return None
