"""From two rows of logits to a code: guidance, top-k, top-p, one categorical draw (docs/hmar-model.md §5.1-5.2).

Which codes survive top-k is decided on float32 logits as they are. Probabilities and their cumulative sums are float64,
so that every implementation, whatever its order of summation, makes the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def guided(cond: F32, uncond: F32, weight: float) -> F32:
    """Return (1+t)·cond - t·uncond in float32; every product and the difference are rounded by themselves."""
    return np.float32(1 + weight) * cond - np.float32(weight) * uncond


def surviving(logits: F32, top_k: int, top_p: float) -> NDArray[np.bool_]:
    """Return bool (…, V), True where a code survives both filters.

    top_k: removes logits below the k-th largest; ties with it stay; 0 keeps all. top_p, after it: codes in ascending
    order of what is left, equal logits in ascending order of codes, are removed while their cumulative probability is
    at most 1 - top_p; the last one always stays; 1 keeps all.
    """
    keep = np.ones(logits.shape, np.bool_)
    if top_k:
        place = logits.shape[-1] - top_k
        keep = logits >= np.partition(logits, place, axis=-1)[..., place, None]
    if top_p < 1:
        left = _Kept.of(keep)
        values = np.where(left.real, left.take(logits), np.float32(-np.inf))
        order = _ascending(values)
        each = np.where(left.real, weights(values), 0.0)
        total = np.cumsum(np.take_along_axis(each, order, axis=-1), axis=-1)
        stays = total > (1 - top_p) * total[..., -1:]
        stays[..., -1] = True
        passed = np.empty_like(left.real)
        np.put_along_axis(passed, order, stays, axis=-1)
        keep[keep] = passed[left.real]
    return keep


def weights(logits: F32, largest: F32 | None = None) -> NDArray[np.float64]:
    """Return probabilities but for a factor: exp(logit - largest), in float64; the largest (…, 1) is found if None."""
    return np.exp(logits.astype(np.float64) - (logits.max(axis=-1, keepdims=True) if largest is None else largest))


def draw_codes(logits: F32, keep: NDArray[np.bool_], uniforms: F32) -> tuple[NDArray[np.int64], F32]:
    """Return the code that each row draws, and its probability among the survivors (the cell's confidence).

    logits, keep: (…, V); uniforms: (…) in [0, 1). The code is the first, in the order of codes, whose cumulative
    probability exceeds u; where rounding leaves the total at u or below, it is the last survivor.
    """
    left = _Kept.of(keep)
    each = np.where(left.real, weights(left.take(logits), logits.max(axis=-1, keepdims=True)), 0.0)
    total = np.cumsum(each, axis=-1)
    whole = total[..., -1]
    beyond = total > (np.asarray(uniforms, np.float64) * whole)[..., None]
    last = left.real.sum(axis=-1) - 1
    place = np.where(beyond[..., -1], beyond.argmax(axis=-1), last)[..., None]
    confidence = np.take_along_axis(each, place, axis=-1)[..., 0] / whole
    return np.take_along_axis(left.codes, place, axis=-1)[..., 0], confidence.astype(np.float32)


@dataclass(frozen=True)
class _Kept:
    """Each row's surviving codes in ascending order, (…, M): filters leave a few hundred of thousands.

    real: False where a row has fewer than M and code 0 fills the place.
    """

    codes: NDArray[np.int64]
    real: NDArray[np.bool_]

    @classmethod
    def of(cls, keep: NDArray[np.bool_]) -> _Kept:
        """Return those of keep (…, V)."""
        counts = keep.sum(axis=-1)
        every = np.flatnonzero(keep) % keep.shape[-1]
        real = np.arange(counts.max(initial=0)) < counts[..., None]
        codes = np.zeros(real.shape, np.int64)
        codes[real] = every
        return cls(codes, real)

    def take(self, logits: F32) -> F32:
        """Return the survivors' logits (…, M)."""
        return np.take_along_axis(logits, self.codes, axis=-1)


def _ascending(values: F32) -> NDArray[np.int64]:
    """Return what a stable argsort over the last axis does, of values that are not NaN, in less time.

    A float's bits as a number that orders as the float does, and its place below them, make keys that all differ.
    """
    bits = (values + np.float32(0)).view(np.uint32)  # -0 counts as 0
    ordered = bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    keys = ordered.astype(np.uint64) << np.uint64(32) | np.arange(values.shape[-1], dtype=np.uint64)
    keys.sort(axis=-1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def smooth_weights(logits: F32, keep: NDArray[np.bool_], gumbel: F32, ratio: float) -> F32:
    """Return weights (…, V) of a preview that mixes codes' vectors instead of drawing one (§5.3).

    softmax of ((1+r)·logit + γ)/τ among the survivors, γ Gumbel noise; ratio is r = s/(S-1).
    """
    lift, temperature = preview_factors(ratio)
    noisy = (lift * logits.astype(np.float64) + gumbel) / temperature
    noisy = np.where(keep, noisy, -np.inf)
    mixed = np.exp(noisy - noisy.max(axis=-1, keepdims=True))
    return (mixed / mixed.sum(axis=-1, keepdims=True)).astype(np.float32)


def preview_factors(ratio: float) -> tuple[float, float]:
    """Return a smooth preview's factor on logits, 1 + r, and its temperature τ = max(0.27·(1 - 0.95·r), 0.005)."""
    return 1 + ratio, max(0.27 * (1 - 0.95 * ratio), 0.005)
