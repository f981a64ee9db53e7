"""Reads and writes ADM's reference statistics: `.npz` with mu, sigma (pool) and mu_s, sigma_s (spatial)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError
from himar_kernels.shared.files import new_file

from .image_sets import archive_names
from .metrics import Gaussian

_KEYS = ("mu", "sigma", "mu_s", "sigma_s")


@dataclass(frozen=True)
class Statistics:
    """Gaussians of pool and spatial features. Files of other tools may lack the spatial one."""

    pool: Gaussian
    spatial: Gaussian | None


def has_statistics(path: Path) -> bool:
    """Whether a `.npz` holds mu and sigma. Raises InputError when it cannot be read."""
    return {"mu", "sigma"} <= set(archive_names(path))


def read_statistics(path: Path, extractor_sha256: str | None = None) -> Statistics:
    """Read a statistics file; images in it (arr_0) are not touched.

    Raises InputError when it is damaged, holds no statistics, or says that another extractor made them. Files of other
    tools do not say it.
    """
    names = archive_names(path)
    if not {"mu", "sigma"} <= set(names):
        raise InputError(f"{path} has no mu and sigma; it holds {', '.join(names[:8]) or 'nothing'}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float64, casting="safe") for name in _KEYS if name in names}
            maker = str(file["extractor_sha256"]) if "extractor_sha256" in names else None
            images = file["images"] if "images" in names else None
    except Exception as error:  # a damaged archive fails in zipfile, zlib, tokenize or NumPy, each in its own way
        raise InputError(f"{path} is damaged ({error}); write or fetch it again.") from error
    count = None
    if images is not None:
        if images.ndim or images.dtype.kind not in "iu" or images < 1:
            raise InputError(
                f"images of {path} is {images.dtype} {np.array2string(images, threshold=4)}; "
                f"it must be one whole number of at least 1: write the file again."
            )
        count = int(images)
    if maker is not None and extractor_sha256 is not None and maker != extractor_sha256:
        raise InputError(
            f"{path} was made with the extractor {maker[:12]}…, not {extractor_sha256[:12]}…; use the same one."
        )
    return Statistics(_gaussian(path, arrays, "", count), _gaussian_s(path, arrays, count))


def write_statistics(path: Path, statistics: Statistics, extractor: str, extractor_sha256: str) -> None:
    """Write the four arrays, and images, extractor and extractor_sha256, in one move. Raises InputError."""
    arrays: dict[str, NDArray] = {"mu": statistics.pool.mean, "sigma": statistics.pool.covariance}
    if statistics.spatial is not None:
        arrays |= {"mu_s": statistics.spatial.mean, "sigma_s": statistics.spatial.covariance}
    if statistics.pool.count is not None:
        arrays["images"] = np.array(statistics.pool.count)
    arrays |= {"extractor": np.array(extractor), "extractor_sha256": np.array(extractor_sha256)}
    with new_file(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _gaussian(path: Path, arrays: Mapping[str, NDArray[np.float64]], suffix: str, count: int | None) -> Gaussian:
    try:
        return Gaussian(arrays[f"mu{suffix}"], arrays[f"sigma{suffix}"], count)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _gaussian_s(path: Path, arrays: Mapping[str, NDArray[np.float64]], count: int | None) -> Gaussian | None:
    return _gaussian(path, arrays, "_s", count) if {"mu_s", "sigma_s"} <= arrays.keys() else None
