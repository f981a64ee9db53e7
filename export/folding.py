"""Transformer blocks with a phase's constants folded in: each phase becomes a plain pre-norm ViT (§3).

A block's vectors are constants of the phase. Its norms' affine parameters take (1 + scale), and a shift where there
is one; the product after attention and the second product of the feed-forward take the gate. The qkv and first
feed-forward products do not change, so both phases' engines share them on disk. Rows and positions are one axis, so
that every product is one of matrices, its bias a part of it.
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
from .shared_input import parts_of, shared_input

Rows = tuple[int, int]
"""Rows R and the positions T of each, which a stream (R·T, D) has as one axis; one of the two may be -1."""


class Norm(nn.Module):
    """LayerNorm in float32 with given affine parameters (D,)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone().flatten(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone().flatten(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (…, D) to the same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPS)


class _Branches(nn.Module):
    """What all blocks have: two norms, and the products after attention and of the feed-forward."""

    def __init__(self, block: Block, modulation: Tensor | None, phase: int, dtype: torch.dtype, merged: bool) -> None:
        super().__init__()
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = constants(block, modulation, phase)
        self.heads, self.merged = block.attn.heads, merged
        self.norm1 = Norm(block.norm1.weight * (1 + scale_a), block.norm1.bias * (1 + scale_a) + shift_a)
        self.proj = gated(block.attn.proj, gate_a, dtype)
        self.norm2 = Norm(block.norm2.weight * (1 + scale_m), block.norm2.bias * (1 + scale_m) + shift_m)
        self.fc1 = product(block.mlp.fc1, dtype)
        self.fc2 = gated(block.mlp.fc2, gate_m, dtype)

    def finish(self, x: Tensor, queries: Rows, keys: Rows, qkv: tuple[Tensor, ...]) -> Tensor:
        """Add attention, then the feed-forward, to the queries' rows x (R·Q, D)."""
        x = x + self.proj(attend(qkv, self.heads, queries, keys, self.merged)).float()
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)))).float()


class FoldedBlock(_Branches):
    """x + proj(attention(norm1(x))), then x + fc2(GELU(fc1(norm2(x)))); the stream x is float32."""

    def __init__(self, block: Block, modulation: Tensor | None, phase: int, dtype: torch.dtype, merged: bool) -> None:
        super().__init__(block, modulation, phase, dtype, merged)
        self.qkv = shared_input(parts_of(block.attn.qkv, 3), dtype, merged)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Map (R·T, D), whose R and T `rows` says, to the same."""
        return self.finish(x, rows, rows, self.qkv(self.norm1(x)))


class LastBlock(_Branches):
    """A FoldedBlock of which some positions alone are read: keys and values of all, everything else of those."""

    def __init__(self, block: Block, modulation: Tensor | None, phase: int, dtype: torch.dtype, merged: bool) -> None:
        super().__init__(block, modulation, phase, dtype, merged)
        q, *kv = parts_of(block.attn.qkv, 3)
        self.q = Product(*q, dtype)
        self.kv = shared_input(kv, dtype, merged)

    def forward(self, x: Tensor, rows: Rows, first: int, count: int) -> Tensor:
        """Map (R·T, D) to (R·count, D): positions first … first+count-1 of each row."""
        normal = self.norm1(x)
        read, asking = (
            each.reshape(*rows, each.shape[-1])[:, first : first + count].reshape(-1, each.shape[-1])
            for each in (x, normal)
        )
        return self.finish(read, (rows[0], count), rows, (self.q(asking), *self.kv(normal)))


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


def attend(qkv: tuple[Tensor, ...], heads: int, queries: Rows, keys: Rows, merged: bool) -> Tensor:
    """Multi-head attention: q (R·Q, D), k and v (R·T, D) to (R·Q, D).

    queries, keys: (R, Q) and (R, T).
    merged: heads are an axis of their own, as PyTorch and GPUs' parsers have them; otherwise the `Attention` operator
        takes (R, T, D) and finds the heads itself, which saves ONNX Runtime its copies.
    """
    width = qkv[0].shape[-1]
    split = (heads, width // heads) if merged else (width,)
    q, k, v = (part.reshape(*rows, *split) for part, rows in zip(qkv, (queries, keys, keys), strict=True))
    if merged:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, width)
    return torch.onnx.ops.attention(q, k, v, q_num_heads=heads, kv_num_heads=heads)[0].reshape(-1, width)


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
