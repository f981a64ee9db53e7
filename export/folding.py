"""Transformer blocks with a phase's constants folded in: each phase becomes a plain pre-norm ViT (§3).

A block's vectors are constants of the phase. Its norms' affine parameters take (1 + scale), and a shift where there
is one; the product after attention and the second product of the feed-forward take the gate. The qkv and first
feed-forward products do not change, so both phases' engines share them on disk. Rows and positions are one axis, so
that every product is one of matrices, its bias a part of it or of what follows it (see `between`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from himar.model import HiMAR
from himar.transformer import MODULATIONS, Block

from .attention import AttentionGraph, Rows
from .between import Between, Norm
from .precision import gated, product


class _Branches(nn.Module):
    """What all blocks have: two norms, and the products after attention and of the feed-forward."""

    apart = False

    def __init__(self, block: Block, modulation: Tensor | None, phase: int, dtype: torch.dtype, merged: bool) -> None:
        super().__init__()
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = constants(block, modulation, phase)
        self.between = Between.of(dtype, merged)
        self.norm1 = Norm(block.norm1.weight * (1 + scale_a), block.norm1.bias * (1 + scale_a) + shift_a)
        self.attention = AttentionGraph(block.attn, dtype, merged, apart=self.apart)
        self.proj = self.attention.last(block.attn.proj, gate_a, dtype)
        self.norm2 = Norm(block.norm2.weight * (1 + scale_m), block.norm2.bias * (1 + scale_m) + shift_m)
        self.fc1 = product(block.mlp.fc1, dtype)
        self.fc2 = gated(block.mlp.fc2.weight, block.mlp.fc2.bias, gate_m, dtype)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add attention's result, then the feed-forward, to the queries' rows x, all (R·Q, D)."""
        x = self.between.residual(x, self.proj.unfinished(mixed))
        hidden = self.between.activation(self.fc1.unfinished(self.between.norm(self.norm2, x)), "gelu")
        return self.between.residual(x, self.fc2.unfinished(hidden))


class FoldedBlock(_Branches):
    """x + proj(attention(norm1(x))), then x + fc2(GELU(fc1(norm2(x)))); the stream x is float32."""

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Map (R·T, D), whose R and T `rows` says, to the same."""
        return self.finish(x, self.attention(self.between.norm(self.norm1, x), rows, rows))


class LastBlock(_Branches):
    """A FoldedBlock of which some positions alone are read: keys and values of all, everything else of those."""

    apart = True

    def forward(self, x: Tensor, rows: Rows, first: int, count: int) -> Tensor:
        """Map (R·T, D) to (R·count, D): positions first … first+count-1 of each row."""
        normal = self.between.norm(self.norm1, x)
        read, asking = (
            each.reshape(*rows, each.shape[-1])[:, first : first + count].reshape(-1, each.shape[-1])
            for each in (x, normal)
        )
        return self.finish(read, self.attention(normal, (rows[0], count), rows, asking))


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


def fold_blocks(
    model: HiMAR, name: Literal["encoder", "decoder"], phase: int, dtype: torch.dtype, merged: bool
) -> nn.ModuleList:
    """Fold phase `phase` into the blocks of encoder or decoder; the decoder's last is a LastBlock."""
    modulation = model.modulation(name, phase)
    blocks = [block for block in model.get_submodule(f"{name}_blocks").children() if isinstance(block, Block)]
    folded: list[nn.Module] = [FoldedBlock(block, modulation, phase, dtype, merged) for block in blocks]
    if name == "decoder":
        folded[-1] = LastBlock(blocks[-1], modulation, phase, dtype, merged)
    return nn.ModuleList(folded)
