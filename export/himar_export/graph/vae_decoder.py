"""Makes the VAE decoder an exportable graph."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from .precision import halve_convolutions


class Decodes(Protocol):
    """A VAE, or another autoencoder with these two parts, that decodes latents (B, C, h, w) to images."""

    @property
    def post_quant_conv(self) -> nn.Conv2d:
        """What latents go through first."""
        ...

    @property
    def decoder(self) -> nn.Module:
        """What makes images of them."""
        ...

    def decode(self, latent: Tensor, /) -> Tensor:
        """Return images (B, 3, H, W) around [-1, 1]."""
        ...


class VaeDecoder(nn.Module):
    """latent (B, C, h, w), scale removed → image (B, 3, H, W) around [-1, 1].

    In half precision the convolutions alone are half: norms, activations and the residual stream stay float32, so
    the wide range that the decoder's stream reaches cannot overflow into black images.
    """

    def __init__(self, vae: Decodes, dtype: torch.dtype) -> None:
        super().__init__()
        self.post_quant_conv = copy.deepcopy(vae.post_quant_conv)
        self.decoder = copy.deepcopy(vae.decoder)
        if dtype != torch.float32:
            halve_convolutions(self.decoder, dtype)

    def forward(self, latent: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        return self.decoder(self.post_quant_conv(latent))
