"""Which settings a request gets: a named set or the caller's own, with single values replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import InputError
from .sampling import SamplingConfig


def choose_sampling(
    named: Mapping[str, SamplingConfig],
    sampling: str | SamplingConfig | None,
    guidance: float | None,
    changes: Mapping[str, Any],
    holder: str = "bundle",
) -> SamplingConfig:
    """Return the settings of a request.

    Args:
        named: the settings of a bundle or model, the first is the default.
        sampling: a name among them, settings of the caller's own, or None for the default.
        guidance: scale for both phases; `changes` of one phase go before it.
        changes: fields of SamplingConfig to replace; None leaves a field.
        holder: what has the named settings, for the error.

    Raises InputError for an unknown name or a value out of range.
    """
    if sampling is None:
        settings = next(iter(named.values()))
    elif isinstance(sampling, SamplingConfig):
        settings = sampling
    elif sampling in named:
        settings = named[sampling]
    else:
        raise InputError(f"sampling {sampling!r} is not in this {holder}; it has {', '.join(named)}.")
    both = {"low_guidance": guidance, "high_guidance": guidance}
    return settings.with_changes(**both | {name: value for name, value in changes.items() if value is not None})


def require_phase_low(changes: Mapping[str, Any], holder: str = "this bundle's model") -> None:
    """Raise InputError if a caller named a field of phase low, for a model that has a single scale and so none."""
    unheard = [name for name, value in changes.items() if name.startswith("low_") and value is not None]
    if unheard:
        raise InputError(f"{unheard[0]} is given, but {holder} has a single scale and so no phase low; leave it out.")
