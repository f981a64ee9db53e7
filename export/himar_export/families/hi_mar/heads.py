"""Writes the heads as exportable graphs, from which what does not change over the diffusion steps has moved out.

The condition arrives embedded (the transformer's graph does it once per autoregressive step), and the timestep
embedding of all 1000 indices is a table (computed once, here). What modulates a norm comes out of its matmul as
1 + scale. Rows and positions are one axis, so that every matmul takes two matrices, and its bias is a part of it or of
what follows it (see `elementwise`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar.families.hi_mar.dit_head import DiTBlock, DiTHead
from himar.families.hi_mar.layers import FinalLayer, TimestepEmbedding
from himar.families.hi_mar.mlp_head import MLPHead, ResidualBlock
from himar_export.graph.attention import AttentionGraph
from himar_export.graph.elementwise import Elementwise, Norm, PlainNorm
from himar_export.graph.precision import BiasPending, matmul
from himar_export.graph.shared_input import Affine, Merged, Packed, Separate, modulations, parts_of, plus_one
from himar_export.graph.style import GraphStyle
from himar_kernels.families.hi_mar import BASE_STEPS

Modulations = Merged | Separate | Packed


def _final_parts(layer: FinalLayer) -> list[Affine]:
    """Shift and 1 + scale of the last layer's norm."""
    return plus_one(parts_of(layer.adaLN_modulation[1], 2), [1])


class _Final(nn.Module):
    """The heads' last layer: its matmul is a float32 island; what modulates its norm is as in the blocks, or given."""

    def __init__(self, layer: FinalLayer, style: GraphStyle, *, held: bool = False) -> None:
        super().__init__()
        self.elementwise = Elementwise(style)
        self.modulation = None if held else modulations(_final_parts(layer), style)
        self.linear = matmul(layer.linear, torch.float32)
        self.norm = PlainNorm(self.linear.weight.shape[0])

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        assert self.modulation is not None
        return self.modulated(x, *self.modulation.bias_pending(activated))

    def modulated(self, x: Tensor, shift: BiasPending, scale: BiasPending) -> Tensor:
        return self.linear(self.elementwise.modulated_norm(self.norm, x, scale, shift, to_float=True))


class _ResidualBlock(nn.Module):
    """A block of the MLP head, whose modulations are given."""

    def __init__(self, block: ResidualBlock, style: GraphStyle) -> None:
        super().__init__()
        self.elementwise = Elementwise(style)
        self.norm = Norm(block.in_ln.weight, block.in_ln.bias)
        self.first = matmul(block.mlp[0], style.dtype)
        self.second = matmul(block.mlp[2], style.dtype)

    def forward(self, x: Tensor, shift: BiasPending, scale: BiasPending, gate: BiasPending) -> Tensor:
        normal = self.elementwise.modulated_norm(self.norm, x, scale, shift)
        hidden = self.elementwise.activation(self.first.bias_pending(normal), "silu")
        return self.elementwise.gated_residual(x, self.second.bias_pending(hidden), gate)


class MLPHeadGraph(nn.Module):
    """x (M, C), timestep (1), condition (M, W) → noise and variance (M, 2C)."""

    def __init__(self, head: MLPHead, style: GraphStyle) -> None:
        super().__init__()
        self.elementwise = Elementwise(style)
        self.timesteps = timestep_table(head.time_embed)
        self.input_proj = matmul(head.input_proj, torch.float32)
        blocks = [block for block in head.res_blocks if isinstance(block, ResidualBlock)]
        parts = [part for b in blocks for part in plus_one(parts_of(b.adaLN_modulation[1], 3), [1])]
        packed = style.packs_modulations
        self.modulations = modulations(parts + _final_parts(head.final_layer) if packed else parts, style)
        self.blocks = nn.ModuleList(_ResidualBlock(block, style) for block in blocks)
        self.final = _Final(head.final_layer, style, held=packed)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        row = F.embedding(timestep, self.timesteps)
        activated = self.elementwise.silu_of_sum(condition, row, [self.modulations, self.final.modulation])
        made = self.modulations.bias_pending(activated)
        x = self.input_proj(x)
        for i, block in enumerate(self.blocks):
            x = block(x, *made[3 * i : 3 * i + 3])
        return self.final.modulated(x, *made[-2:]) if self.final.modulation is None else self.final(x, activated)


def _block_modulation(block: DiTBlock, style: GraphStyle) -> Modulations:
    """Shift, 1 + scale and gate of a block's attention, and of its feed-forward."""
    return modulations(plus_one(parts_of(block.adaLN_modulation[1], 6), [1, 4]), style)


class DiTBlockGraph(nn.Module):
    """A block of the DiT head over N positions; the stream x (R·N, W) is float32.

    Where its modulations are held it has no matmuls that make them, and takes them.
    """

    def __init__(self, block: DiTBlock, positions: int, style: GraphStyle, *, held: bool = False) -> None:
        super().__init__()
        self.positions = positions
        self.elementwise = Elementwise(style)
        self.norm = PlainNorm(block.attn.qkv.in_features)
        self.modulation = None if held else _block_modulation(block, style)
        self.attention = AttentionGraph(block.attn, style)
        self.proj = self.attention.last(block.attn.proj, None)
        self.fc1 = matmul(block.mlp.fc1, style.dtype)
        self.fc2 = matmul(block.mlp.fc2, style.dtype)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """Map x and SiLU(c), both (R·N, W), to (R·N, W)."""
        assert self.modulation is not None
        return self.modulated(x, *self.modulation.bias_pending(activated))

    def modulated(
        self,
        x: Tensor,
        shift_a: BiasPending,
        scale_a: BiasPending,
        gate_a: BiasPending,
        shift_m: BiasPending,
        scale_m: BiasPending,
        gate_m: BiasPending,
    ) -> Tensor:
        """Map x and what modulates attention and feed-forward, all (R·N, W), to (R·N, W); scales come as 1 + scale."""
        rows = (-1, self.positions)
        normal = self.elementwise.modulated_norm(self.norm, x, scale_a, shift_a)
        mixed = self.attention(normal, rows, rows)
        x = self.elementwise.gated_residual(x, self.proj.bias_pending(mixed), gate_a)
        normal = self.elementwise.modulated_norm(self.norm, x, scale_m, shift_m)
        hidden = self.elementwise.activation(self.fc1.bias_pending(normal), "gelu_tanh")
        return self.elementwise.gated_residual(x, self.fc2.bias_pending(hidden), gate_m)


class DiTHeadGraph(nn.Module):
    """x (R, N, C), timestep (1), condition (R, N, W) → noise (R, N, C)."""

    def __init__(self, head: DiTHead, style: GraphStyle) -> None:
        super().__init__()
        self.elementwise = Elementwise(style)
        self.timesteps = timestep_table(head.t_embedder)
        self.x_embedder = matmul(head.x_embedder.proj, torch.float32)
        self.positions = nn.Parameter(head.pos_embed[0].detach().clone(), requires_grad=False)
        self.blocks = nn.ModuleList(DiTBlockGraph(block, len(self.positions), style) for block in _blocks(head))
        self.final = _Final(head.final_layer, style)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        N, W = self.positions.shape
        layers = (*self.blocks, self.final)
        readers = [layer.modulation for layer in layers if isinstance(layer, DiTBlockGraph | _Final)]
        row = F.embedding(timestep, self.timesteps)
        activated = self.elementwise.silu_of_sum(condition.reshape(-1, W), row, readers)
        y = (self.x_embedder(x) + self.positions).reshape(-1, W)
        for block in self.blocks:
            y = block(y, activated)
        return self.final(y, activated).reshape(-1, N, x.shape[-1])


class DiTModulationsGraph(nn.Module):
    """timestep (1), condition (R, N, W) → all modulations of a DiT head (`held_tensors`), each (R, N, …).

    With `DiTHeldGraph` it gives what the whole head gives. Where a style packs a layer's modulations they are one
    tensor, without their biases, which the operators that read it add.
    """

    def __init__(self, head: DiTHead, style: GraphStyle) -> None:
        super().__init__()
        self.elementwise = Elementwise(style)
        self.timesteps = timestep_table(head.t_embedder)
        self.blocks = nn.ModuleList(_block_modulation(block, style) for block in _blocks(head))
        self.final = modulations(_final_parts(head.final_layer), style)

    def forward(self, timestep: Tensor, condition: Tensor) -> tuple[Tensor, ...]:
        """Shapes as the component's contract says."""
        layers = (*self.blocks, self.final)
        activated = self.elementwise.silu_of_sum(condition, F.embedding(timestep, self.timesteps), layers)
        if isinstance(self.final, Packed):
            return tuple(layer.bias_pending(activated)[0].values for layer in layers)
        return tuple(part for layer in layers for part in layer(activated))


class DiTHeldGraph(nn.Module):
    """x (R, N, C), then all modulations (`held_tensors`) → noise (R, N, C)."""

    def __init__(self, head: DiTHead, style: GraphStyle) -> None:
        super().__init__()
        self.x_embedder = matmul(head.x_embedder.proj, torch.float32)
        self.positions = nn.Parameter(head.pos_embed[0].detach().clone(), requires_grad=False)
        blocks = _blocks(head)
        self.blocks = nn.ModuleList(DiTBlockGraph(block, len(self.positions), style, held=True) for block in blocks)
        self.final = _Final(head.final_layer, style, held=True)
        layers = [*(_block_modulation(block, style) for block in blocks),
                  modulations(_final_parts(head.final_layer), style)]  # fmt: skip
        self.biases = nn.ParameterList(layer.bias for layer in layers if isinstance(layer, Packed))

    def forward(self, *given: Tensor) -> Tensor:
        """Shapes and order as the component's contract says."""
        N, W = self.positions.shape
        x, held = given[0], self._parts([each.reshape(-1, each.shape[-1]) for each in given[1:]])
        y = (self.x_embedder(x) + self.positions).reshape(-1, W)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, DiTBlockGraph)
            y = block.modulated(y, *held[6 * i : 6 * i + 6])
        return self.final.modulated(y, *held[-2:]).reshape(-1, N, x.shape[-1])

    def _parts(self, given: list[Tensor]) -> list[BiasPending]:
        if not len(self.biases):
            return [BiasPending(each, None) for each in given]
        counts = [6] * len(self.blocks) + [2]
        return [
            BiasPending(values, bias, part, count)
            for values, bias, count in zip(given, self.biases, counts, strict=True)
            for part in range(count)
        ]


def head_graph(head: MLPHead | DiTHead, style: GraphStyle) -> MLPHeadGraph | DiTHeadGraph:
    """Return a head as a graph of this style."""
    return MLPHeadGraph(head, style) if isinstance(head, MLPHead) else DiTHeadGraph(head, style)


def held_tensors(head: DiTHead, style: GraphStyle) -> dict[str, int]:
    """Return the names of what lies between a DiT head's two parts, in order, with the width of each.

    They are six modulations of each block and two of the last layer, or one tensor of each where a style packs them.
    """
    width = head.final_layer.linear.in_features
    if style.packs_modulations:
        packed = {f"block_{i}_modulations": 6 * width for i in range(len(head.blocks))}
        return {**packed, "final_modulations": 2 * width}
    parts = [f"{kind}_{of}" for of in ("attention", "feed_forward") for kind in ("shift", "scale", "gate")]
    names = (*(f"block_{i}_{part}" for i in range(len(head.blocks)) for part in parts), "final_shift", "final_scale")
    return dict.fromkeys(names, width)


def _blocks(head: DiTHead) -> list[DiTBlock]:
    return [block for block in head.blocks if isinstance(block, DiTBlock)]


def timestep_table(embedding: TimestepEmbedding) -> nn.Parameter:
    """Embed every index of the original chain: (1000, W), float32."""
    return nn.Parameter(embedding(torch.arange(BASE_STEPS)).detach(), requires_grad=False)
