"""Makes HMAR's networks exportable graphs: what the class decides, the shared trunk, and the two tails (§4, §10).

The class alone decides the modulation of every block, so `conditions` runs once per image and the others take its
vectors as inputs; 1 + scale is folded into its biases. The trunk embeds a scale's tokens: one matmul of K = Cv for the
latent, and a table that holds level, position and bias of every cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from himar.families.hmar.model import HMAR
from himar.families.hmar.transformer import (
    EPS,
    HEAD_VECTORS,
    MOST_SHARPNESS,
    NORM_FLOOR,
    Block,
    HeadNorm,
    Modulation,
    Stack,
)
from himar_export.graph.attention import finding_heads, with_heads
from himar_export.graph.elementwise import Elementwise
from himar_export.graph.precision import Matmul, matmul
from himar_export.graph.repeated import Repeated
from himar_export.graph.shared_input import shared_input
from himar_export.graph.style import GraphStyle

_BLOCK_SCALES, _HEAD_SCALE = (2, 3), (0,)
"""Which of a block's and of a head's vectors are scales, which the networks take as 1 + scale."""


class ConditionsGraph(nn.Module):
    """class_row (R,) → what the class alone decides: cond (R, C), then each group of vectors (R, k, 6 or 2, C)."""

    def __init__(self, model: HMAR, style: GraphStyle) -> None:
        super().__init__()
        self.style = style
        self.class_emb = nn.Parameter(model.class_emb.weight.detach().clone(), requires_grad=False)
        self.groups = nn.ModuleList(_Modulations(group, style) for group in modulation_groups(model))

    def forward(self, class_row: Tensor) -> tuple[Tensor, ...]:
        """Shapes as the component's contract says."""
        cond = nn.functional.embedding(class_row, self.class_emb)
        active = nn.functional.silu(cond)
        return (cond, *(group(active) for group in self.groups))


class _Modulations(nn.Module):
    """The vectors of some blocks, or of one head, as one matmul."""

    def __init__(self, layers: Sequence[Modulation], style: GraphStyle) -> None:
        super().__init__()
        self.vectors = layers[0].vectors
        self.head = self.vectors == HEAD_VECTORS
        scales = _HEAD_SCALE if self.head else _BLOCK_SCALES
        weights, biases = [], []
        for layer in layers:
            linear = layer[1]
            assert isinstance(linear, nn.Linear)
            bias = linear.bias.detach().unflatten(0, (self.vectors, -1)).clone()
            bias[list(scales)] += 1
            weights.append(linear.weight.detach())
            biases.append(bias.flatten())
        self.linear = Matmul(torch.cat(weights), torch.cat(biases), style.dtype)

    def forward(self, active: Tensor) -> Tensor:
        """Map SiLU(cond) (R, C) to (R, blocks, 6, C), or (R, 2, C) of a head; float32."""
        rows, width = active.shape
        every = self.linear(active).float()
        return every.reshape(rows, self.vectors, width) if self.head else every.reshape(rows, -1, self.vectors, width)


def modulation_groups(model: HMAR) -> list[list[Modulation]]:
    """Return the layers behind each output of `conditions` after cond, in its order; see `condition_outputs`."""
    stacks: list[Stack] = [model.base_blocks, model.ns_blocks]
    heads: list[HeadNorm] = [model.ns_head_nm]
    if model.config.masked:
        stacks.append(model.mask_blocks)
        heads.append(model.mask_head_nm)
    blocks = [[block.ada_lin for block in stack if isinstance(block, Block)] for stack in stacks]
    return [*(group for group in blocks if group), *([head.ada_lin] for head in heads)]


class BlockGraph(nn.Module):
    """A block over the cells given; the stream x (R, T, C) is float32."""

    def __init__(self, block: Block, style: GraphStyle) -> None:
        super().__init__()
        attn = block.attn
        self.style, self.heads = style, attn.heads
        self.elementwise = Elementwise(style)
        width = attn.proj.in_features
        q, k, v = attn.mat_qkv.weight.detach().chunk(3)
        zero = torch.zeros(width)
        self.qkv = shared_input([(q, attn.q_bias.detach()), (k, zero), (v, attn.v_bias.detach())], style)
        sharpness = attn.scale_mul_1H11.detach().flatten().clamp(max=MOST_SHARPNESS).exp()
        self.sharpness = nn.Parameter(sharpness[:, None].clone(), requires_grad=False)
        self.proj = matmul(attn.proj, style.dtype)
        self.fc1 = matmul(block.ffn.fc1, style.dtype)
        self.fc2 = matmul(block.ffn.fc2, style.dtype)

    def forward(self, x: Tensor, vectors: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Map (R, T, C) to the same, followed by this scale's keys and values where coarser scales' are given.

        vectors: (R, 6, C); past: keys and values (R, P, C) of all coarser scales, or nothing.
        """
        g1, g2, s1, s2, b1, b2 = (vector[:, None] for vector in vectors.unbind(1))
        rows, cells, width = x.shape
        q, k, v = (
            part.with_bias().reshape(rows, cells, width)
            for part in self.qkv.bias_pending(_modulated(x, s1, b1).reshape(-1, width))
        )
        q, k = self._normal(q, self.sharpness).to(v.dtype), self._normal(k).to(v.dtype)
        own = (k.float(), v.float())
        if past:
            k, v = (torch.cat([before.to(v.dtype), now], dim=1) for before, now in zip(past, (k, v), strict=True))
        x = x + g1 * self.proj(self._attend(q, k, v)).float()
        hidden = self.elementwise.activation(
            self.fc1.bias_pending(_modulated(x, s2, b2).reshape(-1, width)), "gelu_tanh"
        )
        x = x + g2 * self.fc2(hidden).float().reshape(rows, cells, width)
        return (x, *own) if past else (x,)

    def _normal(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Divide each head's part of (R, T, C) by its norm, in float32, and multiply it by its factor (heads, 1)."""
        parts = x.float().unflatten(-1, (self.heads, -1))
        parts = parts / parts.norm(dim=-1, keepdim=True).clamp(min=NORM_FLOOR)
        return (parts if factor is None else parts * factor).flatten(-2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.style.splits_heads:
            return finding_heads(q, k, v, self.heads, 1.0)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return with_heads(q, k, v, 1.0).transpose(1, 2).flatten(-2)


class BlocksGraph(nn.Module):
    """Some blocks, one after the other."""

    def __init__(self, stack: Stack, style: GraphStyle) -> None:
        super().__init__()
        blocks = [block for block in stack if isinstance(block, Block)]
        heads = blocks[0].attn.heads if blocks else 0
        self.blocks = Repeated([BlockGraph(block, style) for block in blocks], (style, heads))

    def forward(self, x: Tensor, vectors: Tensor | None) -> Tensor:
        """Map (R, T, C) to the same; vectors (R, blocks, 6, C), None where there are no blocks."""
        for place in range(len(self.blocks)):
            assert vectors is not None
            (x,) = self.blocks.run(place, x, vectors[:, place])
        return x

    def after(self, x: Tensor, vectors: Tensor | None, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Do the same with all coarser scales in view; return x, and this scale's keys and values (R, blocks, T, C).

        keys, values: those of the coarser scales, (R, blocks, P, C).
        """
        own = []
        for place in range(len(self.blocks)):
            assert vectors is not None
            x, k, v = self.blocks.run(place, x, vectors[:, place], keys[:, place], values[:, place], results=3)
            own.append((k, v))
        return (x, *(torch.stack(part, dim=1) for part in zip(*own, strict=True)))


class EmbeddingGraph(nn.Module):
    """Embeds a scale's cells: what the latent says of them, mask embeddings, their places, at scale 0 the class."""

    def __init__(self, model: HMAR, style: GraphStyle) -> None:
        super().__init__()
        scales = model.config.scales
        table = model.lvl_embed.weight[torch.from_numpy(scales.of_cells())] + model.pos_1LC[0]
        first = scales.cells[0]
        table = torch.cat([table[:first] + model.pos_start[0], table[first:] + model.word_embed_bias]).detach()
        self.places = nn.Parameter(table, requires_grad=False)
        self.word_embed = Matmul(model.word_embed.weight.detach(), torch.zeros(model.config.width), torch.float32)
        mask = model.mask_embed.weight if model.config.masked else torch.zeros(1, model.config.width)
        self.mask_embed = nn.Parameter(mask.detach().clone(), requires_grad=False)

    def forward(self, words: Tensor, masked: Tensor, cells: Tensor, start: Tensor) -> Tensor:
        """Return tokens (R, T, C).

        words (R, T, Cv): n_s, and m_s added at visible cells of a masked step; masked (R, T): 1 at masked cells; cells
        (T,): their places among all L; start (R, 1, C): cond at scale 0, else 0.
        """
        placed = nn.functional.embedding(cells, self.places)
        return self.word_embed(words) + masked[..., None] * self.mask_embed + placed + start


class TrunkGraph(nn.Module):
    """The embedding and the blocks that both networks share."""

    def __init__(self, model: HMAR, style: GraphStyle) -> None:
        super().__init__()
        self.embedding = EmbeddingGraph(model, style)
        self.blocks = BlocksGraph(model.base_blocks, style)

    def forward(
        self, words: Tensor, masked: Tensor, cells: Tensor, start: Tensor, vectors: Tensor | None = None
    ) -> Tensor:
        """Shapes as the component's contract says."""
        return self.blocks(self.embedding(words, masked, cells, start), vectors)


class TailGraph(nn.Module):
    """The blocks and the head that one network has for itself: (R, T, C) → logits (R, T, V)."""

    def __init__(self, stack: Stack, head: nn.Linear, style: GraphStyle) -> None:
        super().__init__()
        self.blocks = BlocksGraph(stack, style)
        self.head = matmul(head, torch.float32)

    def forward(self, x: Tensor, head: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Shapes as the component's contract says."""
        return self.finish(self.blocks(x, vectors), head)

    def finish(self, x: Tensor, head: Tensor) -> Tensor:
        """Return the logits of what the blocks made; head (R, 2, C): 1 + scale and shift."""
        return self.head(_modulated(x, head[:, :1], head[:, 1:]))


class VarTrunkGraph(TrunkGraph):
    """The trunk with all coarser scales in view; leaves x, and this scale's keys and values."""

    def forward(  # type: ignore[override]
        self, words: Tensor, cells: Tensor, start: Tensor, vectors: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, ...]:
        """Shapes as the component's contract says."""
        x = self.embedding(words, torch.zeros_like(words[..., 0]), cells, start)
        return self.blocks.after(x, vectors, keys, values)


class VarTailGraph(TailGraph):
    """The next-scale tail with all coarser scales in view; leaves logits, and this scale's keys and values."""

    def forward(  # type: ignore[override]
        self, x: Tensor, head: Tensor, vectors: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, ...]:
        """Shapes as the component's contract says."""
        x, *own = self.blocks.after(x, vectors, keys, values)
        return (self.finish(x, head), *own)


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return LN(x)·scale + shift in float32, LN without affine parameters; scale and shift (R, 1, C), 1 included."""
    return nn.functional.layer_norm(x, x.shape[-1:], eps=EPS) * scale + shift
