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
from himar_export.graph.shared_input import parts_of, plus_one, shared_input
from himar_export.graph.style import GraphStyle
from himar_kernels.families.hi_mar import BASE_STEPS


class _Final(nn.Module):
    """The heads' last layer: its matmul is a float32 island; what modulates its norm is as in the blocks."""

    def __init__(self, layer: FinalLayer, style: GraphStyle) -> None:
        super().__init__()
        parts = plus_one(parts_of(layer.adaLN_modulation[1], 2), [1])
        self.elementwise = Elementwise(style)
        self.modulation = shared_input(parts, style)
        self.linear = matmul(layer.linear, torch.float32)
        self.norm = PlainNorm(self.linear.weight.shape[0])

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale = self.modulation.bias_pending(activated)
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
        self.timesteps = timestep_table(head.time_embed)
        self.input_proj = matmul(head.input_proj, torch.float32)
        blocks = [block for block in head.res_blocks if isinstance(block, ResidualBlock)]
        parts = [part for b in blocks for part in plus_one(parts_of(b.adaLN_modulation[1], 3), [1])]
        self.modulations = shared_input(parts, style)
        self.blocks = nn.ModuleList(_ResidualBlock(block, style) for block in blocks)
        self.final = _Final(head.final_layer, style)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        activated = F.silu(F.embedding(timestep, self.timesteps) + condition)
        modulations = self.modulations.bias_pending(activated)
        x = self.input_proj(x)
        for i, block in enumerate(self.blocks):
            x = block(x, *modulations[3 * i : 3 * i + 3])
        return self.final(x, activated)


class DiTBlockGraph(nn.Module):
    """A block of the DiT head over N positions; the stream x (R·N, W) is float32."""

    def __init__(self, block: DiTBlock, positions: int, style: GraphStyle) -> None:
        super().__init__()
        self.positions = positions
        self.elementwise = Elementwise(style)
        self.norm = PlainNorm(block.attn.qkv.in_features)
        self.modulation = shared_input(plus_one(parts_of(block.adaLN_modulation[1], 6), [1, 4]), style)
        self.attention = AttentionGraph(block.attn, style)
        self.proj = self.attention.last(block.attn.proj, None)
        self.fc1 = matmul(block.mlp.fc1, style.dtype)
        self.fc2 = matmul(block.mlp.fc2, style.dtype)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """Map x and SiLU(c), both (R·N, W), to (R·N, W)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation.bias_pending(activated)
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
        self.timesteps = timestep_table(head.t_embedder)
        self.x_embedder = matmul(head.x_embedder.proj, torch.float32)
        self.positions = nn.Parameter(head.pos_embed[0].detach().clone(), requires_grad=False)
        blocks = [block for block in head.blocks if isinstance(block, DiTBlock)]
        self.blocks = nn.ModuleList(DiTBlockGraph(block, len(self.positions), style) for block in blocks)
        self.final = _Final(head.final_layer, style)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        N, W = self.positions.shape
        activated = F.silu(F.embedding(timestep, self.timesteps) + condition.reshape(-1, W))
        y = (self.x_embedder(x) + self.positions).reshape(-1, W)
        for block in self.blocks:
            y = block(y, activated)
        return self.final(y, activated).reshape(-1, N, x.shape[-1])


def timestep_table(embedding: TimestepEmbedding) -> nn.Parameter:
    """Embed every index of the original chain: (1000, W), float32."""
    return nn.Parameter(embedding(torch.arange(BASE_STEPS)).detach(), requires_grad=False)
