"""Defines the MLP head: a per-token diffusion network that samples low tokens (§4)."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import EPS, FinalLayer, TimestepEmbedding, modulate


class ResidualBlock(nn.Module):
    """x + gate · mlp(in_ln(x)·(1+scale) + shift), all three from Linear(SiLU(y))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """Map x and SiLU(y) of the condition, both (M, W), to (M, W)."""
        shift, scale, gate = self.adaLN_modulation[1](active).chunk(3, dim=-1)
        return x + gate * self.mlp(modulate(self.in_ln(x), shift, scale))


class MLPHead(nn.Module):
    """Predicts noise and variance of one token; `condition` is constant over the diffusion steps."""

    def __init__(self, channels: int, depth: int, width: int, condition_width: int) -> None:
        super().__init__()
        self.time_embed = TimestepEmbedding(width)
        self.cond_embed = nn.Linear(condition_width, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * channels)

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Map x (M, C), timesteps t (M,) or (1,), z rows c (M, D) to noise and variance (M, 2C)."""
        return self.denoise(x, t, self.condition(c))

    def condition(self, z: Tensor) -> Tensor:
        """Embed z (M, D) to (M, W); compute it once per autoregressive step."""
        return self.cond_embed(z)

    def denoise(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """`forward` from an embedded condition (M, W)."""
        active = nn.functional.silu(self.time_embed(t) + condition)
        x = self.input_proj(x)
        for block in self.res_blocks:
            x = block(x, active)
        return self.final_layer(x, active)
