"""The heads as exportable graphs: what does not change over the diffusion steps has moved out of them.

The condition arrives embedded (the transformer's graph does it once per autoregressive step), and the timestep
embedding of all 1000 indices is a table (computed once, here). The modulations of the MLP head's blocks are one
product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar.dit_head import DiTBlock, DiTHead
from himar.layers import FinalLayer, TimestepEmbedding, modulate, plain_layer_norm
from himar.mlp_head import MLPHead, ResidualBlock
from himar_kernels import BASE_STEPS

from .folding import Norm, attend
from .precision import Product, product


class _Final(nn.Module):
    """The heads' last layer, a float32 island."""

    def __init__(self, layer: FinalLayer) -> None:
        super().__init__()
        self.modulation = product(layer.adaLN_modulation[1], torch.float32)
        self.linear = product(layer.linear, torch.float32)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale = self.modulation(activated).chunk(2, dim=-1)
        return self.linear(modulate(plain_layer_norm(x), shift, scale))


class MLPHeadGraph(nn.Module):
    """x (M, C), timestep (1), condition (M, W) → noise and variance (M, 2C)."""

    def __init__(self, head: MLPHead, dtype: torch.dtype) -> None:
        super().__init__()
        self.timesteps = timestep_table(head.time_embed)
        self.input_proj = product(head.input_proj, torch.float32)
        blocks = [block for block in head.res_blocks if isinstance(block, ResidualBlock)]
        self.width = head.input_proj.out_features
        self.modulations = _merged([block.adaLN_modulation[1] for block in blocks], dtype)
        self.norms = nn.ModuleList(Norm(block.in_ln.weight, block.in_ln.bias) for block in blocks)
        self.first = nn.ModuleList(product(b.mlp[0], dtype) for b in blocks)
        self.second = nn.ModuleList(product(b.mlp[2], dtype) for b in blocks)
        self.final = _Final(head.final_layer)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        activated = F.silu(F.embedding(timestep, self.timesteps) + condition)
        modulations = self.modulations(activated).split(self.width, dim=-1)
        x = self.input_proj(x)
        for i, (norm, first, second) in enumerate(zip(self.norms, self.first, self.second, strict=True)):
            shift, scale, gate = modulations[3 * i : 3 * i + 3]
            h = second(F.silu(first(modulate(norm(x), shift, scale))))
            x = x + (gate * h).float()
        return self.final(x, activated)


class DiTBlockGraph(nn.Module):
    """A block of the DiT head; the stream x (R, N, W) is float32."""

    def __init__(self, block: DiTBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = block.attn.heads
        self.modulation = product(block.adaLN_modulation[1], dtype)
        self.qkv = product(block.attn.qkv, dtype)
        self.proj = product(block.attn.proj, dtype)
        self.fc1 = product(block.mlp.fc1, dtype)
        self.fc2 = product(block.mlp.fc2, dtype)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """Map x and SiLU(c), both (R, N, W), to (R, N, W)."""
        modulations = self.modulation(activated).chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulations
        h = self.proj(attend(self.qkv(modulate(plain_layer_norm(x), shift_a, scale_a)), self.heads))
        x = x + (gate_a * h).float()
        h = modulate(plain_layer_norm(x), shift_m, scale_m)
        return x + (gate_m * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))).float()


class DiTHeadGraph(nn.Module):
    """x (R, N, C), timestep (1), condition (R, N, W) → noise (R, N, C)."""

    def __init__(self, head: DiTHead, dtype: torch.dtype) -> None:
        super().__init__()
        self.timesteps = timestep_table(head.t_embedder)
        self.x_embedder = product(head.x_embedder.proj, torch.float32)
        self.positions = nn.Parameter(head.pos_embed[0].detach().clone(), requires_grad=False)
        self.blocks = nn.ModuleList(DiTBlockGraph(b, dtype) for b in head.blocks if isinstance(b, DiTBlock))
        self.final = _Final(head.final_layer)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        activated = F.silu(F.embedding(timestep, self.timesteps)[:, None] + condition)
        x = self.x_embedder(x) + self.positions
        for block in self.blocks:
            x = block(x, activated)
        return self.final(x, activated)


def timestep_table(embedding: TimestepEmbedding) -> nn.Parameter:
    """Embed every index of the original chain: (1000, W), float32."""
    return nn.Parameter(embedding(torch.arange(BASE_STEPS)).detach(), requires_grad=False)


def _merged(layers: list[nn.Module], dtype: torch.dtype) -> Product:
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weight, bias = torch.cat([each.weight for each in linear]), torch.cat([each.bias for each in linear])
    return Product(weight, bias, dtype)
