"""A small VAE, and images with masks, for edits of the tests' small models of Hi-MAR: 16 pixels, 4 of a latent."""

from __future__ import annotations

import numpy as np
import torch

from himar.vae.autoencoder import AutoencoderKL, VaeConfig

SIDE = 16
IMAGES = np.random.default_rng(3).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)


def small_vae() -> AutoencoderKL:
    """Return a KL VAE with random weights, of 4 channels."""
    torch.manual_seed(7)
    config = VaeConfig(ch=32, ch_mult=(1, 1, 1), z_channels=4, num_res_blocks=1, attention_levels=())
    return AutoencoderKL(config).eval().requires_grad_(False)


def holes() -> np.ndarray:
    """A pixel, a half, all but one position of 4 × 4 pixels, all but a pixel; with them 1, 8, 15 and 16 high positions.

    Of 2 × 2 low positions they touch 1, 2, 4 and 4.
    """
    masks = np.zeros((4, SIDE, SIDE), np.bool_)
    masks[0, 5, 9] = masks[1, :, 8:] = masks[2] = masks[3] = True
    masks[2, :4, :4] = masks[3, 0, 0] = False
    return masks
