"""The Fréchet distance between Gaussians fitted to features (Heusel et al. 2017), in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D), float64; count: images they were fitted to, None where a file does not say."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int | None = None

    def __post_init__(self) -> None:
        width = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if self.covariance.shape != (width, width):
            raise InputError(
                f"a mean of shape {self.mean.shape} came with a covariance of shape {self.covariance.shape}; "
                f"they must be (D,) and (D, D)."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise InputError("mean or covariance are not finite; the features or the statistics file are damaged.")
        least = float(self.covariance.diagonal().min()) if width else 0.0
        if least < 0:
            raise InputError(f"a variance is {least:.3g}, which cannot be; the statistics file is damaged.")


def fit_gaussian(features: NDArray[np.floating], block: int = 8192) -> Gaussian:
    """Return mean and unbiased covariance of features (n, D). Raises InputError below 2 images or when not finite."""
    if len(features) < 2:
        raise InputError(f"there are {len(features)} images; a covariance needs at least 2.")
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((features.shape[1],) * 2)
    for first in range(0, len(features), block):  # 50,000 images in float64 at once would be copied twice
        centred = features[first : first + block].astype(np.float64) - mean
        covariance += centred.T @ centred
    return Gaussian(mean, covariance / (len(features) - 1), len(features))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), the square of the Fréchet distance as papers report it; at least 0.

    Raises InputError when the two were not fitted to features of the same size.
    """
    if first.mean.shape != second.mean.shape:
        raise InputError(
            f"one set has features of {len(first.mean)} dimensions and the other of {len(second.mean)}; "
            f"both must come from the same extractor."
        )
    difference = first.mean - second.mean
    traces = float(np.trace(first.covariance) + np.trace(second.covariance))
    return max(0.0, float(difference @ difference) + traces - 2 * _root_trace(first.covariance, second.covariance))


def _root_trace(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """tr((Σ₁Σ₂)^½).

    The eigenvalues of Σ₁Σ₂ are those of the symmetric Σ₁^½ Σ₂ Σ₁^½, that is the squared singular values of Σ₁^½ Σ₂^½.
    Singular values keep the precision that a square root of rounded eigenvalues near zero would lose, which matters
    when there are fewer images than dimensions. Where their iteration does not converge, the eigenvalues serve.
    """
    root = _root(first)
    try:
        return float(np.linalg.svd(root @ _root(second), compute_uv=False).sum())
    except np.linalg.LinAlgError:
        product = root @ second @ root
        return float(np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum())


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
