"""The blocks and heads of both networks, modulated by the class (§4). Parameters are named as in the checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Attend

EPS = 1e-6
"""Epsilon of every LayerNorm."""
NORM_FLOOR = 1e-12
"""Queries and keys are divided by their norm, but by no less than this."""
MOST_SHARPNESS = math.log(100)
"""Logarithm of the largest factor on a normalised query."""

BLOCK_VECTORS, HEAD_VECTORS = 6, 2
"""Vectors of width C that modulate a block (g1, g2, s1, s2, b1, b2) and a head (scale, shift), in these orders."""


class Attention(nn.Module):
    """Self-attention over normalised queries and keys, with one learned sharpness per head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.empty(1, heads, 1, 1))
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Map (R, N, C) to (R, N, C); `attend` says which cells see which."""
        rows, length, width = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.mat_qkv.weight, bias).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = F.normalize(q, dim=-1, eps=NORM_FLOOR) * self.scale_mul_1H11.clamp(max=MOST_SHARPNESS).exp()
        k = F.normalize(k, dim=-1, eps=NORM_FLOOR)
        mixed = attend(q.type_as(v), k.type_as(v), v)
        return self.proj(mixed.transpose(1, 2).reshape(rows, length, width))


class FeedForward(nn.Module):
    """Linear to 4C, tanh GELU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, C) to (…, C)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Modulation(nn.Sequential):
    """Makes a block's or head's vectors from the class; SiLU stands in it for the released names."""

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, vectors * width))
        self.vectors = vectors

    def of_active(self, active: Tensor) -> Tensor:
        """Map SiLU(cond) (R, C), which is the same for all of them, to (R, vectors, C)."""
        return self.linear(active).unflatten(-1, (self.vectors, -1))

    @property
    def linear(self) -> nn.Linear:
        """The product; its rows are the vectors in their order."""
        layer = self[1]
        assert isinstance(layer, nn.Linear)
        return layer


class Block(nn.Module):
    """Attention and feed-forward on modulated norms, each added through a gate."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ffn = FeedForward(width)
        self.ada_lin = Modulation(width, BLOCK_VECTORS)

    def forward(self, x: Tensor, vectors: Tensor, attend: Attend, kept: Tensor | None = None) -> Tensor:
        """Map (R, N, C) to (R, N, C).

        vectors: (R, 6, C); kept: (2, R), factors of both branches in training with stochastic depth (§7).
        """
        g1, g2, s1, s2, b1, b2 = vectors[:, :, None].unbind(1)
        if kept is not None:
            g1, g2 = (gate * factor[:, None, None] for gate, factor in zip((g1, g2), kept, strict=True))
        x = x + g1 * self.attn(modulated(x, s1, b1), attend)
        return x + g2 * self.ffn(modulated(x, s2, b2))


class HeadNorm(nn.Module):
    """The norm before a head, modulated by the class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = Modulation(width, HEAD_VECTORS)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """Map (R, N, C) to (R, N, C); vectors (R, 2, C)."""
        scale, shift = vectors[:, :, None].unbind(1)
        return modulated(x, scale, shift)


class Stack(nn.ModuleList):
    """Blocks one after the other.

    recompute: run every block again in the backward pass instead of keeping its activations.
    """

    def vectors(self, active: Tensor) -> list[Tensor]:
        """Return each block's vectors (R, 6, C) of SiLU(cond) (R, C)."""
        return [block.ada_lin.of_active(active) for block in self]  # type: ignore[union-attr, operator]

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__(Block(width, heads) for _ in range(depth))
        self.recompute = False

    def run(self, x: Tensor, vectors: Tensor, attends: Sequence[Attend], kept: Tensor | None = None) -> Tensor:
        """Map (R, N, C) to (R, N, C).

        vectors: (depth, R, 6, C); attends: one per block; kept: (depth, 2, R) or None.
        """
        for place, (block, attend) in enumerate(zip(self, attends, strict=True)):
            inputs = (x, vectors[place], attend, None if kept is None else kept[place])
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
        return x


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return LN(x)·(1 + scale) + shift, LN without affine parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def embedding(rows: int, width: int) -> nn.Embedding:
    """Return a table (rows, width); on the device "meta" it skips drawing values, which would import a compiler."""
    weight = torch.empty(rows, width)
    return nn.Embedding(rows, width, _weight=weight if weight.is_meta else None)
