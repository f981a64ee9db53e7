"""What the sampling settings of every family share: numbers are checked, JSON is read, a request names its settings."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from himar_kernels.shared.errors import ConfigError, InputError

T = TypeVar("T")

MOST_SCALE = 1_000_000
"""Of guidance and temperature: no image is a picture long before it, and states stay finite in float32."""


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number as Python's int; InputError where it is none or out of range."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise InputError(f"{name} is {value!r}; it must be a whole number.")
    number = operator.index(value)
    if number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise InputError(f"{name} is {number}; it must be {limits}.")
    return number


def real_number(name: str, value: Any) -> float:
    """Return a number as Python's float, infinite where it is too large for one; InputError where it is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"{name} is {value!r}; it must be a number.")
    try:
        return float(value)
    except OverflowError:  # a whole number beyond float64
        return math.inf


def scale_number(name: str, value: Any) -> float:
    """Return a number from 0 to `MOST_SCALE`; InputError for any other."""
    number = real_number(name, value)
    if not 0 <= number <= MOST_SCALE:
        raise InputError(f"{name} is {number}; it must be a number from 0 to {MOST_SCALE}.")
    return number


def list_of(name: str, values: Any, check: Callable[[str, Any], T]) -> tuple[T, ...]:
    """Return a list's values, each checked under its own name; InputError where it is no list, or for a value."""
    lone = isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__")
    if lone or getattr(values, "ndim", 1) == 0:
        raise InputError(f"{name} is {values!r}; it must be a list.")
    return tuple(check(f"{name}[{place}]", value) for place, value in enumerate(values))


def settings_from_dict(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build settings, a dataclass, from JSON values; unknown keys and wrong values are a ConfigError with `source`."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{source}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}.")
    try:
        return kind(**values)
    except InputError as error:
        raise ConfigError(f"{source}: {error}") from error


def named_settings(kind: type[T], named: Mapping[str, T], sampling: object, holder: str) -> T:
    """Return settings by their name, the caller's own as they are, or for None the first; InputError for other names.

    holder: what has the named settings, for the error.
    """
    if sampling is None:
        return next(iter(named.values()))
    if isinstance(sampling, kind):
        return sampling
    if isinstance(sampling, str) and sampling in named:
        return named[sampling]
    raise InputError(f"sampling {sampling!r} is not in this {holder}; it has {', '.join(named)}.")


def given_changes(changes: Mapping[str, Any], known: Sequence[str], model: str) -> dict[str, Any]:
    """Return the changes of a request that are not None; InputError for a name that is no setting of the model."""
    given = {name: value for name, value in changes.items() if value is not None}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"{unknown[0]} is given, but {model} has no such setting; it has {', '.join(known)}.")
    return given
