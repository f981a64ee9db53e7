"""Defines CLIP's text tower, which gives a model its contexts: every row of its last state, padding's too.

arXiv 2103.00020, section 2.4; that all rows are context, without a mask of the padding, is U-ViT's choice
(arXiv 2209.12152, its code), which the paper follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from himar_kernels import InputError

from .layers import Activation, Encoder, check_sizes


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text tower; the defaults are ViT-L/14's.

    width W: of a context's row; hidden: of the feed-forward; vocabulary: tokens; positions K: rows of a context; eps:
    of every LayerNorm.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    vocabulary: int = 49_408
    positions: int = 77
    activation: Activation = "quick_gelu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("width", "layers", "hidden", "vocabulary", "positions")}
        check_sizes(sizes, self.heads, self.width, self.activation)


class _Embeddings(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(config.vocabulary, config.width), freeze=False)
        self.position_embedding = nn.Embedding.from_pretrained(
            torch.empty(config.positions, config.width), freeze=False
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class TextTower(nn.Module):
    """Token and position embeddings, causal blocks, final LayerNorm. Names are Hugging Face's without `text_model.`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.embeddings = _Embeddings(c)
        self.encoder = Encoder(c.layers, c.width, c.heads, c.hidden, c.activation, c.eps, causal=True)
        self.final_layer_norm = nn.LayerNorm(c.width, c.eps)
        if not self.embeddings.token_embedding.weight.is_meta:
            nn.init.normal_(self.embeddings.token_embedding.weight, std=0.02)
            nn.init.normal_(self.embeddings.position_embedding.weight, std=0.01)
            self.encoder.initialise(c.width)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids (n, T), T ≤ K, to their last states (n, T, W)."""
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))


def encode(tower: TextTower, ids: Tensor | NDArray[np.int64]) -> Tensor:
    """Return the contexts (n, K, W), float32, of rows of ids (n, K), on the tower's device and without a gradient.

    Raises InputError for ids of another length than the tower's K, or that its vocabulary lacks.
    """
    c = tower.config
    ids = torch.as_tensor(ids)
    if ids.ndim != 2 or ids.shape[1] != c.positions:
        raise InputError(f"token ids have shape {tuple(ids.shape)}; this tower takes rows of {c.positions}.")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < c.vocabulary:
        raise InputError(
            f"token ids reach from {int(ids.min())} to {int(ids.max())}, and this tower has {c.vocabulary} tokens; "
            f"take the tokenizer of its own folder."
        )
    with torch.no_grad():
        return tower(ids.to(tower.final_layer_norm.weight.device)).float()
