"""Makes the encoder of a KL VAE an exportable graph; it stays in float32, since edits keep what it gives."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from himar.vae.autoencoder import AutoencoderKL


class VaeEncoder(nn.Module):
    """image (B, 3, H, W) in [-1, 1] → the mean of its latents (B, C, h, w), without scale."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(vae.encoder)
        self.quant_conv = copy.deepcopy(vae.quant_conv)

    def forward(self, image: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        return self.quant_conv(self.encoder(image)).chunk(2, dim=1)[0]
