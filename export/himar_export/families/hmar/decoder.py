"""Makes the tokenizer's decoder an exportable graph."""

from __future__ import annotations

from torch import Tensor

from himar_export.graph.vae_decoder import VaeDecoder


class DecoderGraph(VaeDecoder):
    """latent f̂ (B, Cv, H, H), of all scales or of the first ones as a preview → image (B, 3, 16H, 16H) in [-1, 1]."""

    def forward(self, latent: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        return super().forward(latent).clamp(-1, 1)
