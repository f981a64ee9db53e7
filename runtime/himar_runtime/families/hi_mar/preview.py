"""Makes previews of a request under way: its low-resolution images, then those in full size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError, InputError
from himar_kernels.families.hi_mar.phases import ModelInfo
from himar_runtime.bundle.schema import ComponentSpec
from himar_runtime.decode import decode, to_latents
from himar_runtime.engines.engine import Engine
from himar_runtime.result import EVERY


@dataclass(frozen=True)
class Preview:
    """A generation between two steps; see `Progress` for what its methods return.

    tokens: gives the low tokens so far, float32 (B, S, C), times the VAE scale; high: after a step of phase high those
    of the image (B, N, C), None before. decoder: gives the VAE decoder or None.
    """

    model: ModelInfo
    tokens: Callable[[], NDArray[np.float32]]
    decoder: Callable[[], Engine | None]
    high: Callable[[], NDArray[np.float32]] | None = None

    def low_latents(self, part: slice = EVERY) -> NDArray[np.float32]:
        """See Progress.low_latents; s is 0 with a single scale."""
        return to_latents(self.tokens()[part], self.model.vae_scale)

    def preview(self, part: slice = EVERY) -> NDArray[np.uint8]:
        """See Progress.preview."""
        return decode_preview(self.decoder(), self.model, self.tokens()[part])

    def so_far(self, part: slice = EVERY) -> NDArray[np.uint8]:
        """See Progress.so_far."""
        if self.high is None:
            return self.preview(part)
        return decode(_required(self.decoder()), to_latents(self.high()[part], self.model.vae_scale))


def decode_preview(decoder: Engine | None, model: ModelInfo, low_tokens: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return pixels uint8 (B, P, P, 3), RGB, P = s·H/h, of low tokens float32 (B, S, C), times the VAE scale.

    Raises InputError when the model has no low phase or the bundle no VAE decoder, EngineError when the decoder takes
    no latents of this size or gives values that are not finite.
    """
    if model.single_scale:
        raise InputError("this model has a single scale, so there is no low-resolution preview.")
    decoder = _required(decoder)
    side = model.cond_scale
    if not _takes(decoder.spec, side):
        raise EngineError(
            f"this bundle's vae_decoder does not take latents of {side} by {side}, so there is no preview in pixels; "
            f"use low_latents(), or build the bundle again."
        )
    return decode(decoder, to_latents(low_tokens, model.vae_scale))


def _required(decoder: Engine | None) -> Engine:
    if decoder is None:
        raise InputError("this bundle has no VAE decoder, so there is no preview in pixels; use low_latents() instead.")
    return decoder


def _takes(decoder: ComponentSpec, side: int) -> bool:
    """Engines may be built for one size only."""
    shape = decoder.inputs[0].shape
    if len(shape) != 4:
        return False
    for size in shape[2:]:
        low, _, high = decoder.profile.get(size, (side, side, side)) if isinstance(size, str) else (size, size, size)
        if not low <= side <= high:
            return False
    return True
