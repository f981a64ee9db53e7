"""Makes the VAE decoder an exportable graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..verify.compare import Comparison, compare
from .fp32_layers import widened
from .precision import DTYPES, HalfConvolution, RoundedConvolution, halve_convolutions
from .precision_choice import Precision

_CHECKED_SIDE = 8


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

    def __init__(self, vae: Decodes, dtype: torch.dtype, kind: type[HalfConvolution] = HalfConvolution) -> None:
        super().__init__()
        self.post_quant_conv = copy.deepcopy(vae.post_quant_conv)
        self.decoder = copy.deepcopy(vae.decoder)
        if dtype != torch.float32:
            halve_convolutions(self.decoder, dtype, kind)

    def forward(self, latent: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        return self.decoder(self.post_quant_conv(latent))


@torch.inference_mode()
def check_half_arithmetic(
    vae: Decodes,
    precision: Precision,
    latent: NDArray[np.float32],
    limit: float,
    fp32_layers: Sequence[str] = (),
    graph: type[VaeDecoder] | None = None,
) -> Comparison:
    """Run the decoder with the rounding and the range of half precision and compare it with the float32 decoder.

    ONNX Runtime's CPU provider computes these convolutions in float32, so an overflow that a GPU would show as a black
    image would stay unseen there. latent: (B, C, h, w); a corner of it is enough for the ranges. fp32_layers: names of
    those that are not rounded. graph: what the bundle holds, None for VaeDecoder.
    """
    corner = torch.from_numpy(latent[..., :_CHECKED_SIDE, :_CHECKED_SIDE])
    rounded = widened((graph or VaeDecoder)(vae, DTYPES[precision], RoundedConvolution), fp32_layers)
    half = rounded(corner)
    name = f"vae_decoder: image, convolutions rounded to {precision}"
    return compare(name, half.numpy(), vae.decode(corner).numpy(), limit)
