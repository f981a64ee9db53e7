"""Defines CLIP's vision tower (arXiv 2103.00020, section 2.4), which a CLIP score compares with the text tower's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from himar_kernels import ConfigError

from .layers import Activation, Encoder, check_sizes


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision tower; the defaults are ViT-B/32's.

    hidden: of the feed-forward; size: height and width of an image in pixels; patch: of a patch; eps: of every
    LayerNorm.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    size: int = 224
    patch: int = 32
    activation: Activation = "quick_gelu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("width", "layers", "hidden", "size", "patch")}
        check_sizes(sizes, self.heads, self.width, self.activation)
        if self.size % self.patch:
            raise ConfigError(
                f"patches of {self.patch} pixels do not fill images of {self.size}; one of both is wrong."
            )

    @property
    def positions(self) -> int:
        """Number of patches, and the class token's."""
        return (self.size // self.patch) ** 2 + 1


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.position_embedding = nn.Embedding.from_pretrained(
            torch.zeros(config.positions, config.width), freeze=False
        )

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class VisionTower(nn.Module):
    """Patches and a class token, blocks without a mask between two LayerNorms; Hugging Face's names, one misspelt."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.embeddings = _Embeddings(c)
        self.pre_layrnorm = nn.LayerNorm(c.width, c.eps)
        self.encoder = Encoder(c.layers, c.width, c.heads, c.hidden, c.activation, c.eps, causal=False)
        self.post_layernorm = nn.LayerNorm(c.width, c.eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised images (n, 3, size, size) to the class token's last states (n, width)."""
        states = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        return self.post_layernorm(states[:, 0])
