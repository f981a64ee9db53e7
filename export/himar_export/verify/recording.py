"""Reads a recording for `verify`: an array that is missing or has another shape is the user's error."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from himar_kernels import InputError


class Recording(dict[str, NDArray[Any]]):
    """A recording whose missing arrays are the user's error, not a KeyError."""

    def __missing__(self, name: str) -> NDArray[Any]:
        raise InputError(f"the recording lacks the array {name}; record it again.")


def has_shape(array: NDArray[Any], shape: tuple[int | None, ...]) -> bool:
    """Whether an array has this shape, None standing for any size."""
    return array.ndim == len(shape) and all(
        size is None or size == found for size, found in zip(shape, array.shape, strict=True)
    )
