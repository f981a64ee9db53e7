"""How a recorded run was sampled, read off what it did, for recordings that do not say it.

The schedule is the masks' sizes, guidance the weight between conditional and unconditional logits. With probabilities
in descending order and D_j the sum of the first j, a cell whose first m codes survive top_k = k and top_p = p has
D_{m-1}/D_k < p ≤ D_m/D_k, the right side only where m < k: any k and p that hold for every cell make the run's
decisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.shared.errors import InputError

if TYPE_CHECKING:
    from .recording import RecordedForward

_VAR = "var"
"""Cases of this name were recorded with all scales visible; arrays alone cannot tell."""


def infer_settings(case: str, forwards: Sequence[RecordedForward], missing: Sequence[str]) -> dict[str, Any]:
    """Return the schedule, and those of the `missing` settings of a SamplingConfig that the run tells.

    Raises InputError when guidance is missing and no predicted scale but the coarsest has all its logits.
    """
    found: dict[str, Any] = {"schedule": _schedule(forwards)}
    if "smooth" in missing:
        found["smooth"] = all(forward.drawn is None for forward in forwards)
    if "all_scales" in missing:
        found["all_scales"] = case == _VAR
    if "guidance" in missing:
        found["guidance"] = _guidance(case, forwards)
    if "top_k" in missing or "top_p" in missing:
        top_k, top_p = _filters(forwards)
        found |= {name: value for name, value in (("top_k", top_k), ("top_p", top_p)) if name in missing}
    return found


def _schedule(forwards: Sequence[RecordedForward]) -> list[list[int]]:
    counts: list[list[int]] = []
    for forward in forwards:
        if forward.masked is None:
            counts.append([forward.cells])
        else:
            redrawn = int(forward.masked[0].sum())
            counts[-1][-1] -= redrawn
            counts[-1].append(redrawn)
    while counts and len(counts[-1]) == 1:
        counts.pop()
    return counts


def _guidance(case: str, forwards: Sequence[RecordedForward]) -> float:
    """Fit the finest predicted scale whose three logits are recorded."""
    last = max(forward.scale for forward in forwards)
    for forward in reversed(forwards):
        if forward.scale and not forward.step and forward.cond is not None and forward.uncond is not None:
            assert forward.logits is not None
            cond = forward.cond.astype(np.float64)
            apart = cond - forward.uncond
            weight = float(((forward.logits - cond) * apart).sum() / np.square(apart).sum())
            # As a person wrote it: three decimals, where that is within float32's noise.
            scale = weight * last / forward.scale
            return abs(round(scale, 3)) if abs(scale - round(scale, 3)) < 1e-4 else scale
    raise InputError(f"the recording does not say {case}/guidance, and its logits do not tell; record it again.")


def _filters(forwards: Sequence[RecordedForward]) -> tuple[int, float]:
    """Return (top_k, top_p), 0 and 1 where a filter removes nothing; the plainest that explain every cell."""
    lows, highs, kept = [], [], np.zeros(0, np.int64)
    for sums, counts in _sums(forwards):
        place = np.arange(len(counts)), counts - 1
        before = sums[place] - np.diff(sums, axis=1, prepend=0)[place]
        removes = counts[:, None] < np.arange(1, sums.shape[1] + 1)
        lows.append((before[:, None] / sums).max(axis=0))
        highs.append(np.where(removes, sums[place][:, None] / sums, 1.0).min(axis=0))
        kept = np.concatenate([kept, counts])
    if not lows:
        return 0, 1.0
    low, high = np.max(lows, axis=0), np.min(highs, axis=0)
    vocab, most = len(low), int(kept.max())
    if (kept == most).all():
        return (0 if most == vocab else most), 1.0
    fits = np.flatnonzero(low[most - 1 :] < high[most - 1 :]) + most
    if not len(fits):
        raise InputError("no top_k and top_p explain the codes that survive in the recording; record it again.")
    if fits[-1] == vocab:
        return 0, _between(low[-1], high[-1])
    chosen = max(fits.tolist(), key=lambda k: (_plain(low[k - 1], high[k - 1]), high[k - 1] - low[k - 1]))
    return chosen, _between(low[chosen - 1], high[chosen - 1])


def _plain(low: float, high: float) -> bool:
    """Whether a number of two decimals lies between."""
    return low < round((low + high) / 2, 2) <= high


def _between(low: float, high: float) -> float:
    middle = (low + high) / 2
    return round(middle, 2) if _plain(low, high) else float(middle)


def _sums(forwards: Sequence[RecordedForward]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Yield D_1 … D_V and the number of survivors of every cell whose logits are recorded."""
    for forward in forwards:
        if forward.logits is not None and forward.keep is not None:
            logits = np.sort(forward.logits.astype(np.float64).reshape(-1, forward.logits.shape[-1]), axis=-1)[:, ::-1]
            counts = forward.keep[: len(forward.logits)].sum(axis=-1).reshape(-1)
            yield np.cumsum(np.exp(logits - logits[:, :1]), axis=1), counts
