"""Defines the DiT head: a diffusion transformer over all high positions at once (§4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import Attention, FeedForward, FinalLayer, TimestepEmbedding, modulate, plain_layer_norm


class DiTBlock(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated per token from Linear(SiLU(c))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = FeedForward(width, "tanh")
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """Map x and SiLU(c) of the per-token condition, both (R, N, W), to (R, N, W)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation[1](active).chunk(6, dim=-1)
        x = x + gate_a * self.attn(modulate(plain_layer_norm(x), shift_a, scale_a))
        return x + gate_m * self.mlp(modulate(plain_layer_norm(x), shift_m, scale_m))


class PointwiseEmbedding(nn.Module):
    """A 1×1 convolution whose weights (W, C, 1, 1) also serve as a per-token linear layer."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (R, N, C) to (R, N, W)."""
        return nn.functional.linear(tokens, self.proj.weight.flatten(1), self.proj.bias)


class DiTHead(nn.Module):
    """Predicts the noise of the whole grid; `condition` is constant over the diffusion steps.

    `c_pos_embed` belongs to the released layout and is unused there too (§4).
    """

    pos_embed: Tensor
    c_pos_embed: Tensor

    def __init__(self, channels: int, depth: int, width: int, heads: int, condition_width: int, grid: int) -> None:
        super().__init__()
        self.register_buffer("pos_embed", sine_cosine_2d(width, grid)[None])
        self.register_buffer("c_pos_embed", sine_cosine_2d(width, grid)[None])
        self.x_embedder = PointwiseEmbedding(channels, width)
        self.t_embedder = TimestepEmbedding(width)
        self.c_embedder = PointwiseEmbedding(condition_width, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Map x (R, C, h, w), timesteps t (R,) or (1,), z (R, D, h, w) to noise (R, C, h, w)."""
        tokens = x.flatten(2).transpose(1, 2)
        noise = self.denoise(tokens, t, self.condition(z.flatten(2).transpose(1, 2)))
        return noise.transpose(1, 2).reshape(x.shape)

    def condition(self, z: Tensor) -> Tensor:
        """Embed z (R, N, D) to (R, N, W); compute it once per autoregressive step."""
        return self.c_embedder(z)

    def denoise(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Map tokens x (R, N, C), row-major, and an embedded condition (R, N, W) to noise (R, N, C)."""
        active = nn.functional.silu(self.t_embedder(t)[:, None] + condition)
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, active)
        return self.final_layer(x, active)


def sine_cosine_2d(width: int, grid: int) -> Tensor:
    """Fixed position table (grid², width), row-major: half the width for the column, half for the row."""
    quarter = width // 4
    # Named, because on the device "meta" (a model that is about to be loaded) `arange` would import torch's compiler.
    cpu = torch.device("cpu")
    steps = torch.arange(quarter, dtype=torch.float64, device=cpu)
    frequencies = torch.exp(-math.log(10000.0) / quarter * steps)
    angles = torch.arange(grid, dtype=torch.float64, device=cpu)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    column = axis.repeat(grid, 1)
    row = axis.repeat_interleave(grid, dim=0)
    table = torch.cat([column, row], dim=1)
    return nn.functional.pad(table, (0, width - table.shape[1])).float().to(torch.get_default_device())
