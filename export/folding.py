"""Transformer blocks with a phase's constants folded in: each phase becomes a plain pre-norm ViT (§3).

A block's vectors are constants of the phase. Its norms' affine parameters take (1 + scale), and a shift where there
is one; the product after attention and the second product of the feed-forward take the gate. The qkv and first
feed-forward products do not change, so both phases' engines share them on disk.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar.layers import EPS
from himar.model import HiMAR
from himar.transformer import MODULATIONS, Block

from .precision import Product, product


class Norm(nn.Module):
    """LayerNorm in float32 with given affine parameters (D,)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone().flatten(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone().flatten(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (…, D) to the same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPS)


class FoldedBlock(nn.Module):
    """x + proj(attention(norm1(x))), then x + fc2(GELU(fc1(norm2(x)))); the stream x is float32."""

    def __init__(self, block: Block, modulation: Tensor | None, phase: int, dtype: torch.dtype) -> None:
        super().__init__()
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = constants(block, modulation, phase)
        self.heads = block.attn.heads
        self.norm1 = Norm(block.norm1.weight * (1 + scale_a), block.norm1.bias * (1 + scale_a) + shift_a)
        self.qkv = product(block.attn.qkv, dtype)
        self.proj = gated(block.attn.proj, gate_a, dtype)
        self.norm2 = Norm(block.norm2.weight * (1 + scale_m), block.norm2.bias * (1 + scale_m) + shift_m)
        self.fc1 = product(block.mlp.fc1, dtype)
        self.fc2 = gated(block.mlp.fc2, gate_m, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, T, D) to (R, T, D)."""
        x = x + self.proj(attend(self.qkv(self.norm1(x)), self.heads)).float()
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)))).float()


def constants(block: Block, modulation: Tensor | None, phase: int) -> tuple[Tensor, ...]:
    """Return shift, scale and gate of attention, then of the feed-forward, each (D,), whatever the scale vector."""
    zero = torch.zeros_like(block.norm1.weight)
    if modulation is None:
        return (zero, zero, zero + 1) * 2
    vectors = tuple(vector.flatten() for vector in block.scales(modulation, phase))
    if block.modulations == MODULATIONS["sinusoidal"]:
        return vectors
    scale_a, gate_a, scale_m, gate_m = vectors
    return zero, scale_a, gate_a, zero, scale_m, gate_m


def gated(linear: nn.Linear, gate: Tensor, dtype: torch.dtype) -> Product:
    """Return gate·(W·x + b) as one product."""
    return Product(linear.weight * gate[:, None], linear.bias * gate, dtype)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Multi-head attention of (R, T, 3D), ordered q, k, v, to (R, T, D)."""
    rows, length, triple = qkv.shape
    width = triple // 3
    q, k, v = (part.reshape(rows, length, heads, width // heads).transpose(1, 2) for part in qkv.split(width, dim=-1))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, width)


def fold_stack(model: HiMAR, name: Literal["encoder", "decoder"], phase: int, dtype: torch.dtype) -> nn.Sequential:
    """Fold phase `phase` into the blocks of encoder or decoder."""
    modulation = model.modulation(name, phase)
    blocks = model.get_submodule(f"{name}_blocks").children()
    folded = [FoldedBlock(block, modulation, phase, dtype) for block in blocks if isinstance(block, Block)]
    return nn.Sequential(*folded)
