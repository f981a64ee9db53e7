"""Converts tokens to latents and latents to pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from himar_kernels import to_uint8
from himar_kernels.shared.errors import not_finite

from .engines.engine import Engine

# Latents decoded together: the decoder's activations are large, and a few images already fill a device.
DECODE_BATCH = 8


def to_latents(tokens: NDArray[np.float32], vae_scale: float) -> NDArray[np.float32]:
    """Arrange row-major tokens (B, n², C) as latents (B, C, n, n) and take the VAE scale away; n may be 0."""
    batch, positions, channels = tokens.shape
    side = math.isqrt(positions)
    grid = tokens.transpose(0, 2, 1).reshape(batch, channels, side, side)
    return grid / np.float32(vae_scale)


def decode(engine: Engine, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return pixels uint8 (B, H, W, 3), RGB, of latents (B, C, h, w), B ≥ 1.

    Raises EngineError when the decoder gives values that are not finite.
    """
    pixels = []
    for first in range(0, len(latents), DECODE_BATCH):
        images = engine.run({"latent": latents[first : first + DECODE_BATCH]})["image"]
        if not np.isfinite(images).all():
            raise not_finite("vae_decoder")
        pixels.append(to_uint8(images))
    return np.concatenate(pixels)
