"""Defines the layers that transformer and heads share: attention, feed-forward, LayerNorm, timestep features."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
"""Epsilon of every LayerNorm (docs/model.md §1)."""

TIMESTEP_FREQUENCIES = 128


def embedding(rows: int, width: int) -> nn.Embedding:
    """Return a table (rows, width); where weights have no values it skips drawing them.

    A checkpoint is loaded into such a model (device "meta"), and PyTorch's normal draw there would import its compiler,
    which takes a second or two.
    """
    weight = torch.empty(rows, width)
    return nn.Embedding(rows, width, _weight=weight if weight.is_meta else None)


class Attention(nn.Module):
    """Multi-head self-attention, softmax scale head_dim^-½; qkv rows ordered q, k, v (§3)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, T, D) to (R, T, D)."""
        rows, length, width = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        x = self.proj(mixed.transpose(1, 2).reshape(rows, length, width))
        return self.proj_drop(x) if self.training else x


class FeedForward(nn.Module):
    """Linear, GELU, Linear with ratio 4: exact GELU in the transformer (§3), tanh GELU in the DiT head (§4)."""

    def __init__(self, width: int, gelu: Literal["none", "tanh"], dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.gelu = gelu
        self.fc2 = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, D) to (…, D)."""
        x = F.gelu(self.fc1(x), approximate=self.gelu)
        if not self.training:  # a small model notices the calls of layers that do nothing
            return self.fc2(x)
        return self.drop(self.fc2(self.drop(x)))


class TimestepEmbedding(nn.Module):
    """Embed an index of the original 1000-step chain: [cos(t·f), sin(t·f)] → Linear → SiLU → Linear (§4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * TIMESTEP_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        """Map (M,) integers to (M, width)."""
        index = torch.arange(TIMESTEP_FREQUENCIES, dtype=torch.float32, device=timesteps.device)
        frequencies = torch.exp(-math.log(10000.0) / TIMESTEP_FREQUENCIES * index)
        angles = timesteps.float()[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class FinalLayer(nn.Module):
    """Both heads' last layer: shift, scale = Linear(SiLU(y)); Linear(LN(x)·(1+scale)+shift), LN plain (§4).

    As in the heads' blocks, SiLU stands in `adaLN_modulation` for the released parameter names; the head itself applies
    it, once for all blocks.
    """

    def __init__(self, width: int, out_features: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, out_features)

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """Map x and SiLU(y), both (…, width), to (…, out_features)."""
        shift, scale = self.adaLN_modulation[1](active).chunk(2, dim=-1)
        return self.linear(modulate(plain_layer_norm(x), shift, scale))


def plain_layer_norm(x: Tensor) -> Tensor:
    """LayerNorm without affine parameters over the last axis."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x·(1 + scale) + shift."""
    return x * (1 + scale) + shift
