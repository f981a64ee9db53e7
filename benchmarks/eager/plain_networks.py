"""Composes the released model's networks from PyTorch's own layers in the obvious way, with a HiMAR's weights.

Written from docs/model.md §3, §4 and §7 without any of himar's modules, to measure those against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = Mapping[str, Tensor]
EPS = 1e-6


def linear(weights: Weights, name: str) -> nn.Linear:
    """Return a linear layer with the weights of this name; a 1×1 convolution's fit too."""
    weight = weights[f"{name}.weight"].flatten(1)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(weights[f"{name}.bias"])
    return layer


def norm(weights: Weights, name: str) -> nn.LayerNorm:
    """Return a LayerNorm with the weights of this name."""
    layer = nn.LayerNorm(len(weights[f"{name}.weight"]), eps=EPS)
    layer.weight, layer.bias = nn.Parameter(weights[f"{name}.weight"]), nn.Parameter(weights[f"{name}.bias"])
    return layer


class PlainAttention(nn.Module):
    """Self-attention of (R, T, D)."""

    def __init__(self, weights: Weights, name: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = linear(weights, f"{name}.qkv"), linear(weights, f"{name}.proj")

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, T, D) to (R, T, D)."""
        rows, length, width = x.shape
        q, k, v = (part.view(rows, length, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(width, dim=-1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, width))


class PlainBlock(nn.Module):
    """A transformer's block; its scales and gates (4D) come with the call."""

    def __init__(self, weights: Weights, name: str, heads: int, phase: int) -> None:
        super().__init__()
        self.attention = PlainAttention(weights, f"{name}.attn", heads)
        self.norm1, self.norm2 = norm(weights, f"{name}.norm1"), norm(weights, f"{name}.norm2")
        self.fc1, self.fc2 = linear(weights, f"{name}.mlp.fc1"), linear(weights, f"{name}.mlp.fc2")
        self.scale, self.shift = weights[f"{name}.adaLN_scale"][phase], weights[f"{name}.adaLN_shift"][phase]

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """Map (R, T, D) to (R, T, D)."""
        scale_a, gate_a, scale_m, gate_m = (a * self.scale + self.shift).chunk(4, dim=-1)
        x = x + gate_a * self.attention(self.norm1(x) * (1 + scale_a))
        return x + gate_m * self.fc2(F.gelu(self.fc1(self.norm2(x) * (1 + scale_m))))


class PlainTransformer(nn.Module):
    """Both stacks for one phase, 0 low or 1 high; rows of K context, S low and N high positions."""

    def __init__(self, weights: Weights, depths: tuple[int, int], heads: int, buffer: int, phase: int) -> None:
        super().__init__()
        self.w, self.phase, self.buffer = weights, phase, buffer
        self.positions = weights["mask_token"].shape[1] // 2
        self.low, self.high = linear(weights, "cond_proj" if phase == 0 else "cond_z_proj"), linear(weights, "z_proj")
        self.z_ln, self.embed = norm(weights, "z_proj_ln"), linear(weights, "decoder_embed")
        self.norms = nn.ModuleList([norm(weights, "encoder_norm"), norm(weights, "decoder_norm")])
        self.stacks = nn.ModuleList(
            nn.ModuleList(PlainBlock(weights, f"{stack}_blocks.{i}", heads, phase) for i in range(depth))
            for stack, depth in zip(("encoder", "decoder"), depths, strict=True)
        )
        self.ada = nn.ModuleList(linear(weights, f"{stack}_blocks_ada.1") for stack in ("encoder", "decoder"))

    def forward(self, rows: Tensor, low: Tensor, high: Tensor | None, known: Tensor) -> Tensor:
        """Map class rows (R,), low rows (R, S, ·), high tokens (R, N, C) or None, known (R, P) to z (R, L, D)."""
        K, w = self.buffer, self.w
        first = self.phase * (K + self.positions)
        classes = torch.cat([w["class_emb.weight"], w["fake_latent"]])
        x = torch.cat([classes[rows][:, None].repeat(1, K, 1), self.low(low)], dim=1)
        if high is not None:
            x = torch.cat([x, self.high(high)], dim=1)
        x = self.z_ln(x + w["encoder_pos_embed_learned"][:, first : first + x.shape[1]])
        keep = torch.cat([torch.ones(len(rows), K, dtype=torch.bool), known], dim=1)
        x = self._stack(0, x[keep].view(len(rows), -1, x.shape[2]))
        seen = self.embed(self.norms[0](x))
        masks = w["mask_token"][:, self.phase * self.positions : (self.phase + 1) * self.positions]
        full = torch.cat([seen[:, :K], masks.repeat(len(rows), 1, 1)], dim=1)
        full[:, : keep.shape[1]][keep] = seen.flatten(0, 1)
        full = self._stack(1, full + w["decoder_pos_embed_learned"][:, first : first + full.shape[1]])
        return self.norms[1](full)[:, K:] + w["diffusion_pos_embed_learned"]

    def _stack(self, which: int, x: Tensor) -> Tensor:
        name = ("encoder", "decoder")[which]
        a = self.ada[which](F.silu(self.w[f"{name}_task_emb.weight"][self.phase]))
        for block in self.stacks[which].children():
            x = block(x, a)
        return x


def time_features(t: Tensor) -> Tensor:
    """Return the features (M, 256) of timesteps (M,)."""
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def bare_norm(x: Tensor) -> Tensor:
    """Return LayerNorm without affine parameters."""
    return F.layer_norm(x, (x.shape[-1],), eps=EPS)


class PlainMLPHead(nn.Module):
    """Noise and variance (M, 2C) of x (M, C), timestep (1,) and an embedded condition (M, W)."""

    def __init__(self, weights: Weights, depth: int) -> None:
        super().__init__()
        self.time = nn.Sequential(linear(weights, "time_embed.mlp.0"), nn.SiLU(), linear(weights, "time_embed.mlp.2"))
        self.enter = linear(weights, "input_proj")
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                (
                    linear(weights, f"res_blocks.{i}.adaLN_modulation.1"),
                    norm(weights, f"res_blocks.{i}.in_ln"),
                    linear(weights, f"res_blocks.{i}.mlp.0"),
                    linear(weights, f"res_blocks.{i}.mlp.2"),
                )
            )
            for i in range(depth)
        )
        self.final = nn.ModuleList(
            (linear(weights, "final_layer.adaLN_modulation.1"), linear(weights, "final_layer.linear"))
        )

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict."""
        y = F.silu(self.time(time_features(t)) + condition)
        x = self.enter(x)
        for modulation, ln, first, second in self.blocks:
            shift, scale, gate = modulation(y).chunk(3, dim=-1)
            x = x + gate * second(F.silu(first(ln(x) * (1 + scale) + shift)))
        shift, scale = self.final[0](y).chunk(2, dim=-1)
        return self.final[1](bare_norm(x) * (1 + scale) + shift)


class PlainDiTHead(nn.Module):
    """Noise (R, N, C) of x (R, N, C), timestep (1,) and an embedded condition (R, N, W)."""

    def __init__(self, weights: Weights, depth: int, heads: int) -> None:
        super().__init__()
        self.place = weights["pos_embed"]
        self.time = nn.Sequential(linear(weights, "t_embedder.mlp.0"), nn.SiLU(), linear(weights, "t_embedder.mlp.2"))
        self.enter = linear(weights, "x_embedder.proj")
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                (
                    linear(weights, f"blocks.{i}.adaLN_modulation.1"),
                    PlainAttention(weights, f"blocks.{i}.attn", heads),
                    linear(weights, f"blocks.{i}.mlp.fc1"),
                    linear(weights, f"blocks.{i}.mlp.fc2"),
                )
            )
            for i in range(depth)
        )
        self.final = nn.ModuleList(
            (linear(weights, "final_layer.adaLN_modulation.1"), linear(weights, "final_layer.linear"))
        )

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict."""
        c = F.silu(self.time(time_features(t))[:, None] + condition)
        x = self.enter(x) + self.place
        for modulation, attention, first, second in self.blocks:
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation(c).chunk(6, dim=-1)
            x = x + gate_a * attention(bare_norm(x) * (1 + scale_a) + shift_a)
            x = x + gate_m * second(F.gelu(first(bare_norm(x) * (1 + scale_m) + shift_m), approximate="tanh"))
        shift, scale = self.final[0](c).chunk(2, dim=-1)
        return self.final[1](bare_norm(x) * (1 + scale) + shift)


def plain_decode(weights: Weights, latent: Tensor) -> Tensor:
    """Decode latents (B, C, h, w) with a KL VAE's decoder to images (B, 3, H, W)."""

    def conv(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def group_norm(x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], EPS)

    def residual(x: Tensor, name: str) -> Tensor:
        h = conv(F.silu(group_norm(x, f"{name}.norm1")), f"{name}.conv1")
        h = conv(F.silu(group_norm(h, f"{name}.norm2")), f"{name}.conv2")
        return h + (conv(x, f"{name}.nin_shortcut", 0) if f"{name}.nin_shortcut.weight" in weights else x)

    def attention(x: Tensor, name: str) -> Tensor:
        h = group_norm(x, f"{name}.norm")
        q, k, v = (conv(h, f"{name}.{part}", 0).flatten(2).transpose(1, 2) for part in "qkv")
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + conv(mixed.transpose(1, 2).reshape(x.shape), f"{name}.proj_out", 0)

    x = conv(conv(latent, "post_quant_conv", 0), "decoder.conv_in")
    x = residual(attention(residual(x, "decoder.mid.block_1"), "decoder.mid.attn_1"), "decoder.mid.block_2")
    levels = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("decoder.up."))
    for level in reversed(range(levels)):
        block = 0
        while f"decoder.up.{level}.block.{block}.conv1.weight" in weights:
            x, block = residual(x, f"decoder.up.{level}.block.{block}"), block + 1
        if level:
            x = conv(F.interpolate(x, scale_factor=2.0), f"decoder.up.{level}.upsample.conv")
    return conv(F.silu(group_norm(x, "decoder.norm_out")), "decoder.conv_out")
