"""Turns the images of an edit into latents, and hides what lies outside its masks from previews."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels import to_values
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.families.registry import VAE_ENCODER
from himar_kernels.shared.errors import not_finite

from .decode import DECODE_BATCH
from .engines.engine import Engine
from .result import EVERY, PreviewSource


def encode_edit(engine: Engine, edit: Edit) -> NDArray[np.float32]:
    """Return the encoder's latents (B, C, h, w) of an edit's images with their holes filled; see `encode`."""
    return encode(engine, to_values(edit.filled()))


def encode(engine: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the encoder's latents (B, C, h, w) of images (B, 3, P, P) in [-1, 1].

    Raises EngineError when the encoder gives values that are not finite.
    """
    parts = [
        engine.run({"image": images[first : first + DECODE_BATCH]})["latent"]
        for first in range(0, len(images), DECODE_BATCH)
    ]
    latents = np.concatenate(parts)
    if not np.isfinite(latents).all():
        raise not_finite(VAE_ENCODER)
    return latents


def to_tokens(latents: NDArray[np.float32], vae_scale: float) -> NDArray[np.float32]:
    """Arrange latents (B, C, n, n) as row-major tokens (B, n², C), times the VAE scale."""
    flat = latents.reshape(*latents.shape[:2], -1)
    return np.ascontiguousarray(flat.transpose(0, 2, 1) * np.float32(vae_scale))


@dataclass(frozen=True)
class EditPreview:
    """A preview of an edit: in full size it shows the images outside the masks as they were given."""

    source: PreviewSource
    edit: Edit

    def low_latents(self, part: slice = EVERY) -> NDArray[np.float32]:
        """See PreviewSource.low_latents."""
        return self.source.low_latents(part)

    def preview(self, part: slice = EVERY) -> NDArray[np.uint8]:
        """See PreviewSource.preview."""
        return self._pasted(self.source.preview(part), part)

    def so_far(self, part: slice = EVERY) -> NDArray[np.uint8]:
        """See PreviewSource.so_far."""
        return self._pasted(self.source.so_far(part), part)

    def _pasted(self, drawn: NDArray[np.uint8], part: slice) -> NDArray[np.uint8]:
        edit = self.edit[part]
        return edit.paste(drawn) if drawn.shape == edit.images.shape else drawn
