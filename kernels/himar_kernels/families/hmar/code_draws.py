"""From two rows of logits to a code: guidance, top-k, top-p, one categorical draw (docs/hmar-model.md §5.1-5.2).

Which codes survive top-k is decided on float32 logits as they are. Probabilities and their cumulative sums are float64,
so that every implementation, whatever its order of summation, makes the same decisions.
"""

from __future__ import annotations

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
        left = np.where(keep, logits, -np.inf)
        order = np.argsort(left, axis=-1, kind="stable")
        total = np.cumsum(np.take_along_axis(weights(left, keep), order, axis=-1), axis=-1)
        stays = total > (1 - top_p) * total[..., -1:]
        stays[..., -1] = True
        passed = np.empty_like(keep)
        np.put_along_axis(passed, order, stays, axis=-1)
        keep &= passed
    return keep


def weights(logits: F32, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return probabilities but for a factor: exp(logit - largest), and 0 for removed codes. In float64."""
    apart = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.where(keep, np.exp(apart), 0.0)


def draw_codes(logits: F32, keep: NDArray[np.bool_], uniforms: F32) -> tuple[NDArray[np.int64], F32]:
    """Return the code that each row draws, and its probability among the survivors (the cell's confidence).

    logits, keep: (…, V); uniforms: (…) in [0, 1). The code is the first, in the order of codes, whose cumulative
    probability exceeds u; where rounding leaves the total at u or below, it is the last survivor.
    """
    each = weights(logits, keep)
    total = np.cumsum(each, axis=-1)
    whole = total[..., -1]
    beyond = total > (np.asarray(uniforms, np.float64) * whole)[..., None]
    last = keep.shape[-1] - 1 - keep[..., ::-1].argmax(axis=-1)
    codes = np.where(beyond[..., -1], beyond.argmax(axis=-1), last)
    confidence = np.take_along_axis(each, codes[..., None], axis=-1)[..., 0] / whole
    return codes, confidence.astype(np.float32)


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
