"""Makes the tokenizer's two halves exportable graphs; the codes between them are NumPy's on the host."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from himar.families.hmar.tokenizer.network import Tokenizer
from himar_export.graph.vae_decoder import VaeDecoder


class DecoderGraph(VaeDecoder):
    """latent f̂ (B, Cv, H, H), of all scales or of the first ones as a preview → image (B, 3, 16H, 16H) in [-1, 1]."""

    def forward(self, latent: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        return super().forward(latent).clamp(-1, 1)


class EncoderGraph(nn.Module):
    """image (B, 3, 16H, 16H) in [-1, 1] → latent f (B, Cv, H, H), in float32: rounding would change its codes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(tokenizer.encoder)
        self.quant_conv = copy.deepcopy(tokenizer.quant_conv)

    def forward(self, image: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        return self.quant_conv(self.encoder(image))
