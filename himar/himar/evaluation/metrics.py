"""Computes what papers report of image sets from features: Fréchet distance, inception score, precision and recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar.evaluation.extractor import OnImages
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


SPLITS = 10
_SEED = 0


def inception_score(probabilities: NDArray[np.floating], splits: int = SPLITS) -> tuple[float, float]:
    """Return mean and standard deviation over the parts of exp(mean KL(p(y|x) ‖ p(y))) of probabilities (n, K).

    The images are shuffled (always alike) before they are split: in a folder that is sorted by class, consecutive
    parts would hold few classes each and score far too low. Raises InputError for fewer images than parts.
    """
    count = len(probabilities)
    if count < splits:
        raise InputError(f"there are {count} images; the inception score needs at least {splits}, one in each part.")
    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(count)
    scores = []
    for part in np.array_split(order, splits):
        chosen = probabilities[part].astype(np.float64)
        marginal = chosen.mean(axis=0, keepdims=True)
        # 0 · log 0 is 0: a class that no image shows adds nothing.
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(chosen > 0, chosen * (np.log(chosen) - np.log(marginal)), 0)
        scores.append(np.exp(terms.sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


NEIGHBOURS = 3
_ROWS = 1024
# Features are float32: squared distances below this share of the squared lengths are rounding, so the points are one.
_SAME = 1e-12


def precision_recall(
    real: NDArray[np.floating],
    generated: NDArray[np.floating],
    k: int = NEIGHBOURS,
    device: str = "cpu",
    on_rows: OnImages | None = None,
) -> tuple[float, float]:
    """Return the share of generated features within the real ones' balls, and of real ones within the generated ones'.

    real (n, D), generated (m, D). A ball reaches from its feature to the k-th nearest other one of the same set, border
    included. Distances are computed in float64, on `device`; `on_rows` gets (rows of distances done, all).
    Raises InputError when a set has no k others, or sizes differ.
    """
    for name, features in (("reference", real), ("measured", generated)):
        if k < 1 or k >= len(features):
            raise InputError(
                f"k is {k}, but the {name} set has {len(features)} images; k must be 1 to {len(features) - 1}."
            )
    if real.shape[1] != generated.shape[1]:
        raise InputError(
            f"one set has features of {real.shape[1]} dimensions and the other of {generated.shape[1]}; "
            f"both must come from the same extractor."
        )
    ours, theirs = (torch.from_numpy(part).to(device, torch.float64) for part in (generated, real))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if on_rows:
            on_rows(done, 2 * (len(ours) + len(theirs)))

    precision = _covered(ours, theirs, _radii(theirs, k, count), count)
    return precision, _covered(theirs, ours, _radii(ours, k, count), count)


def _radii(features: Tensor, k: int, count: Callable[[int], None]) -> Tensor:
    """Squared distance (n,) of each feature to its k-th nearest other one."""
    radii = []
    for first in range(0, len(features), _ROWS):
        distances = _squared_distances(features[first : first + _ROWS], features)
        own = torch.arange(len(distances), device=features.device)
        distances[own, first + own] = torch.inf
        radii.append(distances.kthvalue(k, dim=1).values)
        count(len(distances))
    return torch.cat(radii)


def _covered(points: Tensor, centres: Tensor, radii: Tensor, count: Callable[[int], None]) -> float:
    """Share of points (m, D) that lie in at least one of the balls."""
    inside = 0
    for first in range(0, len(points), _ROWS):
        distances = _squared_distances(points[first : first + _ROWS], centres)
        inside += int((distances <= radii).any(dim=1).sum())
        count(len(distances))
    return inside / len(points)


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    lengths = first.square().sum(1)[:, None] + second.square().sum(1)
    distances = lengths - 2 * first @ second.T
    return torch.where(distances < _SAME * lengths, 0, distances)
