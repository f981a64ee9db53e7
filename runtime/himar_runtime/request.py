"""Checking what a caller asks for, where the value is known and before any engine runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import Draws, InputError, PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.phases import ModelInfo
from himar_kernels.families.hi_mar.sampling import require_phase_low

_MOST_IMAGES = 2**32


def image_indices(count: int, first_index: int) -> NDArray[np.int64]:
    """Return the image indices int64 (count,) that the draws count by; InputError outside 32 bits."""
    if isinstance(first_index, bool | np.bool_) or not isinstance(first_index, int | np.integer):
        raise InputError(f"first_index is {first_index!r}; it must be a whole number.")
    if not 0 <= first_index <= _MOST_IMAGES - count:
        raise InputError(f"first_index is {first_index}; it must be 0 to {_MOST_IMAGES - count}.")
    return np.arange(first_index, first_index + count)


def choose_draws(seed: int | None, draws: Draws | None) -> Draws:
    """Return the draws given, or those of the seed (None: 0); InputError when both are given."""
    if draws is None:
        return PhiloxDraws(0 if seed is None else seed)
    if seed is not None:
        raise InputError(f"both seed {seed} and draws are given; draws would ignore the seed: give one of them.")
    return draws


def require_phases(
    model: ModelInfo, settings: SamplingConfig, changes: Mapping[str, Any], name: str = "this bundle's model"
) -> None:
    """Raise InputError unless the model has the phases and positions that a request speaks of.

    changes: the fields that the caller named; with a single scale none may be of phase low, which would be ignored.
    name: of the model in the error's text.
    """
    if model.single_scale:
        require_phase_low(changes, name)
    settings.check_positions(model.low_positions, model.high_positions)
