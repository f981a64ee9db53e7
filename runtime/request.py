"""Checking what a caller asks for, where the value is known and before any engine runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import Draws, InputError, PhiloxDraws, SamplingConfig

from .specs import ModelInfo

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


def require_phases(model: ModelInfo, settings: SamplingConfig, changes: Mapping[str, Any]) -> None:
    """Raise InputError unless the model has the phases and positions that a request speaks of.

    changes: the fields that the caller named; with a single scale none may be of phase low, which would be ignored.
    """
    unheard = [
        name for name, value in changes.items() if model.single_scale and name[:4] == "low_" and value is not None
    ]
    if unheard:
        raise InputError(
            f"{unheard[0]} is given, but this bundle's model has a single scale and so no phase low; leave it out."
        )
    settings.check_positions(model.low_positions, model.high_positions)


def choose_sampling(
    named: Mapping[str, SamplingConfig],
    sampling: str | SamplingConfig | None,
    guidance: float | None,
    changes: Mapping[str, Any],
) -> SamplingConfig:
    """Return the settings of a request.

    Args:
        named: the bundle's settings, the first is the default.
        sampling: a name among them, settings of the caller's own, or None for the default.
        guidance: scale for both phases; `changes` of one phase go before it.
        changes: fields of SamplingConfig to replace; None leaves a field.

    Raises InputError for an unknown name or a value out of range.
    """
    if sampling is None:
        settings = next(iter(named.values()))
    elif isinstance(sampling, SamplingConfig):
        settings = sampling
    elif sampling in named:
        settings = named[sampling]
    else:
        raise InputError(f"sampling {sampling!r} is not in this bundle; it has {', '.join(named)}.")
    return settings.with_changes(low_guidance=guidance, high_guidance=guidance).with_changes(**changes)
