"""Makes CLIP's text tower the component `text_encoder`, for every family that draws from text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar.families.hi_mar import layers as merged_layers
from himar.text import TextTower
from himar.text.layers import Attention, Block
from himar_kernels.families.registry import TEXT_ENCODER
from himar_runtime import TensorSpec

from .attention import AttentionGraph
from .component import Component
from .elementwise import Elementwise, Norm
from .precision import matmul, to_half
from .repeated import Repeated
from .style import GraphStyle


def text_encoder(tower: TextTower, max_batch: int, backend: str) -> Component:
    """Return the component of a tower: token ids (prompts, K) → context (prompts, K, W).

    max_batch: images of a run, each of which may have a prompt of its own.
    """
    c = tower.config
    return Component(
        TEXT_ENCODER,
        (TensorSpec("tokens", "int64", ("prompts", c.positions)),),
        (TensorSpec("context", "float32", ("prompts", c.positions, c.width)),),
        {"prompts": (1, max_batch, max_batch)},
        lambda dtype: TextEncoderGraph(tower, GraphStyle.of(backend, dtype)),
        (),
        lambda rows: {"tokens": torch.arange(rows * c.positions).reshape(rows, c.positions) % c.vocabulary},
    )


class TextEncoderGraph(nn.Module):
    """Tokens (n, K) → last states (n, K, W). The stream and the norms are float32; embeddings are stored in `dtype`.

    Attention is causal by its operator's own attribute, so the graph holds no mask, and padding is not masked.
    """

    def __init__(self, tower: TextTower, style: GraphStyle) -> None:
        super().__init__()
        c, embeddings = tower.config, tower.embeddings
        tables = (embeddings.token_embedding.weight, embeddings.position_embedding.weight)
        self.token_rows, self.position_rows = (
            nn.Parameter(to_half(table.detach(), style.dtype), requires_grad=False) for table in tables
        )
        blocks = [_BlockGraph(block, c.positions, style) for block in tower.encoder.layers if isinstance(block, Block)]
        self.blocks = Repeated(blocks, (style, c.positions, c.heads, c.activation, c.eps))
        self.last_norm = Norm(tower.final_layer_norm.weight, tower.final_layer_norm.bias, c.eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        x = F.embedding(tokens, self.token_rows).float() + self.position_rows.float()
        for place in range(len(self.blocks)):
            (x,) = self.blocks.run(place, x)
        return self.last_norm(x)


class _BlockGraph(nn.Module):
    """x + attention(norm1(x)), then x + feed-forward(norm2(x)), over x (n, K, W) in float32."""

    def __init__(self, block: Block, length: int, style: GraphStyle) -> None:
        super().__init__()
        attn, norm1, norm2 = block.self_attn, block.layer_norm1, block.layer_norm2
        self.rows, self.kind, self.elementwise = (-1, length), block.mlp.activation, Elementwise(style)
        self.norm1, self.norm2 = (Norm(norm.weight, norm.bias, norm.eps) for norm in (norm1, norm2))
        self.attention = AttentionGraph(_merged(attn), style, causal=attn.causal)
        self.proj = self.attention.last(attn.out_proj, None)
        self.fc1, self.fc2 = matmul(block.mlp.fc1, style.dtype), matmul(block.mlp.fc2, style.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, K, W) to the same."""
        mixed = self.attention(self.elementwise.norm(self.norm1, x), self.rows, self.rows)
        mixed = mixed.reshape(*self.rows, x.shape[-1])
        x = self.elementwise.residual(x, self.proj.bias_pending(mixed))
        hidden = self.elementwise.activation(self.fc1.bias_pending(self.elementwise.norm(self.norm2, x)), self.kind)
        return self.elementwise.residual(x, self.fc2.bias_pending(hidden))


def _merged(attn: Attention) -> merged_layers.Attention:
    """Return attention with one matrix of queries, keys and values in the place of three."""
    parts = (attn.q_proj, attn.k_proj, attn.v_proj)
    with torch.device("meta"):
        merged = merged_layers.Attention(attn.out_proj.in_features, attn.heads)
    for name in ("weight", "bias"):
        joined = torch.cat([getattr(part, name).detach() for part in parts])
        setattr(merged.qkv, name, nn.Parameter(joined, requires_grad=False))
    return merged
