"""A recording as `verify` reads it: complete, and of the bundle's model, or the user's error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from himar_kernels import InputError
from himar_runtime import Bundle

Arrays = Mapping[str, NDArray[Any]]


class Recording(dict[str, NDArray[Any]]):
    """A recording whose missing arrays are the user's error, not a KeyError."""

    def __missing__(self, name: str) -> NDArray[Any]:
        raise InputError(f"the recording lacks the array {name}; record it again.")


def require_same_model(bundle: Bundle, arrays: Arrays) -> None:
    """Raise InputError unless the recorded arrays have this model's sizes."""
    model = bundle.manifest.model
    S, N, C, D = model.low_positions, model.high_positions, model.channels, model.width
    wanted: dict[str, tuple[int | None, ...]] = {
        "t/low_tokens": (None, S, C),
        "t/tokens": (None, N, C),
        "t/pivots": (None, S, D),
        "phase1/mask": (None, S + N),
        "phase1/z": (None, S + N, D),
        "phase2/mask": (None, S + N),
        "phase2/z": (None, S + N, D),
        "mlp/x": (None, C),
        "mlp/c": (None, D),
        "dit/x": (None, C, model.grid, model.grid),
        "dit/z": (None, D, model.grid, model.grid),
    }
    wanted |= {name: (None, C, None, None) for name in ("latent", "vae/latent")}
    for name, shape in wanted.items():
        if name in arrays and not _has_shape(arrays[name], shape):
            raise InputError(
                f"the recording is of another model: {name} has shape {arrays[name].shape}, this bundle's model needs "
                f"({', '.join('any' if size is None else str(size) for size in shape)})."
            )


def _has_shape(array: NDArray[Any], shape: tuple[int | None, ...]) -> bool:
    return array.ndim == len(shape) and all(
        size is None or size == found for size, found in zip(shape, array.shape, strict=True)
    )
