"""Makes a phase's transformer an exportable graph, the phase's constants folded into its weights (docs/model.md §3)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.transformer import HIGH, LOW, MODULATIONS, Block
from himar_export.families.hi_mar.phases import condition_embedding
from himar_export.graph.attention import AttentionGraph, Rows
from himar_export.graph.elementwise import Elementwise, Norm
from himar_export.graph.precision import gated, matmul
from himar_export.graph.style import GraphStyle


class _PhaseTransformer(nn.Module):
    """Encoder and decoder of one phase over P embedded positions; see `index_lists` for the indices.

    What rows are to show is `shown`: class rows (R,), or contexts (R, K, W) of a model from text.
    """

    def __init__(self, model: HiMAR, phase: int, embedded: int, style: GraphStyle) -> None:
        super().__init__()
        K, L = model.config.buffer, model.config.positions
        self.context_length, self.length = K, K + L
        start = 0 if model.config.single_scale else phase * (K + L)

        def table(parameter: Tensor, first: int, count: int) -> nn.Parameter:
            return nn.Parameter(parameter[0, first : first + count].detach().clone(), requires_grad=False)

        self.from_text = model.config.from_text
        if self.from_text:
            self.text_proj = matmul(model.text_proj, torch.float32)
        else:
            classes = torch.cat([model.class_emb.weight, model.fake_latent]).detach()
            self.class_rows = nn.Parameter(classes, requires_grad=False)
        self.context_positions = table(model.encoder_pos_embed_learned, start, K)
        self.token_positions = table(model.encoder_pos_embed_learned, start + K, embedded)
        self.input_norm = Norm(model.z_proj_ln.weight, model.z_proj_ln.bias)
        self.encoder = fold_blocks(model, "encoder", phase, style)
        self.encoder_norm = Norm(model.encoder_norm.weight, model.encoder_norm.bias)
        self.decoder_embed = matmul(model.decoder_embed, style.dtype)
        self.mask_tokens = table(model.masks(phase), 0, L)
        self.decoder_positions = table(model.decoder_pos_embed_learned, start, K + L)
        self.decoder = fold_blocks(model, "decoder", phase, style)
        self.decoder_norm = Norm(model.decoder_norm.weight, model.decoder_norm.bias)
        self.output_positions = table(model.diffusion_pos_embed_learned, 0, L)

    def run(self, shown: Tensor, embedded: Tensor, visible: Tensor, sources: Tensor, first: int, count: int) -> Tensor:
        """Return z (R, count, D) of positions first … first+count-1; `embedded` (R, P, D) float32."""
        R, width = embedded.shape[0], embedded.shape[-1]
        rows = self.text_proj(shown) if self.from_text else F.embedding(shown, self.class_rows)[:, None]
        context = rows + self.context_positions
        sequence = torch.cat([context, embedded + self.token_positions], dim=1)
        x = F.embedding(visible.reshape(-1), self.input_norm(sequence).reshape(-1, width))
        for block in self.encoder:
            x = block(x, (R, -1))
        x = self.decoder_embed(self.encoder_norm(x)).float()
        decoded: Rows = (-1, self.length)
        x = F.embedding(sources, torch.cat([x, self.mask_tokens])) + self.decoder_positions
        x = x.reshape(-1, width)
        *blocks, last = self.decoder
        for block in blocks:
            x = block(x, decoded)
        x = self.decoder_norm(last(x, decoded, self.context_length + first, count))
        return x.reshape(-1, count, width) + self.output_positions[first : first + count]


class TransformerLow(_PhaseTransformer):
    """Phase low: the head's condition (R, S, W), and before it z (R, S, D) where that becomes the pivots."""

    def __init__(self, model: HiMAR, style: GraphStyle) -> None:
        super().__init__(model, LOW, model.config.low_positions, style)
        self.low_positions = model.config.low_positions
        self.leaves_pivots = model.config.pivots == "condition"
        self.cond_proj = matmul(model.cond_proj, torch.float32)
        self.cond_embed = matmul(condition_embedding(model.low_head), torch.float32)

    def forward(
        self, shown: Tensor, low_tokens: Tensor, visible: Tensor, sources: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Shapes as the component's contract says."""
        z = self.run(shown, self.cond_proj(low_tokens), visible, sources, 0, self.low_positions)
        condition = self.cond_embed(z)
        return (z, condition) if self.leaves_pivots else condition


class TransformerHigh(_PhaseTransformer):
    """Phase high: the head's condition (R, N, W), led by pivots (R, S, D), or (R, S, C) where they are visual."""

    def __init__(self, model: HiMAR, style: GraphStyle) -> None:
        super().__init__(model, HIGH, model.config.positions, style)
        self.low_positions, self.high_positions = model.config.low_positions, model.config.high_positions
        if model.config.pivots == "visual":
            self.cond_proj = matmul(model.cond_proj, torch.float32)
        else:
            self.cond_z_proj = matmul(model.cond_z_proj, style.dtype)
        self.z_proj = matmul(model.z_proj, torch.float32)
        self.c_embedder = matmul(condition_embedding(model.high_head), torch.float32)

    def forward(self, shown: Tensor, pivots: Tensor, tokens: Tensor, visible: Tensor, sources: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        guide = self.cond_proj(pivots) if hasattr(self, "cond_proj") else self.cond_z_proj(pivots).float()
        embedded = torch.cat([guide, self.z_proj(tokens)], dim=1)
        z = self.run(shown, embedded, visible, sources, self.low_positions, self.high_positions)
        return self.c_embedder(z)


class TransformerHighEdit(TransformerHigh):
    """Phase high of an edit: low positions that were known have placeholders in place of projected pivots.

    guides (R, S) are rows of a table of the projected pivots (R·S, D) and after them the placeholders (S, D), which
    training shows where low positions were visible (docs/model.md §8).
    """

    def __init__(self, model: HiMAR, style: GraphStyle) -> None:
        super().__init__(model, style)
        placeholders = model.cond_proj(model.cond_tokens)[0].detach().clone()
        self.placeholders = nn.Parameter(placeholders, requires_grad=False)

    def forward(  # type: ignore[override]
        self, shown: Tensor, pivots: Tensor, guides: Tensor, tokens: Tensor, visible: Tensor, sources: Tensor
    ) -> Tensor:
        """Shapes as the component's contract says."""
        projected = self.cond_z_proj(pivots).float()
        table = torch.cat([projected.reshape(-1, projected.shape[-1]), self.placeholders])
        embedded = torch.cat([F.embedding(guides, table), self.z_proj(tokens)], dim=1)
        z = self.run(shown, embedded, visible, sources, self.low_positions, self.high_positions)
        return self.c_embedder(z)


class TransformerSingle(_PhaseTransformer):
    """The only phase of a single scale: the head's condition (R, N, W) from tokens alone."""

    def __init__(self, model: HiMAR, style: GraphStyle) -> None:
        super().__init__(model, HIGH, model.config.high_positions, style)
        self.high_positions = model.config.high_positions
        self.z_proj = matmul(model.z_proj, torch.float32)
        self.c_embedder = matmul(condition_embedding(model.high_head), torch.float32)

    def forward(self, shown: Tensor, tokens: Tensor, visible: Tensor, sources: Tensor) -> Tensor:
        """Shapes as the component's contract says."""
        z = self.run(shown, self.z_proj(tokens), visible, sources, 0, self.high_positions)
        return self.c_embedder(z)


class _Branches(nn.Module):
    """What all blocks have: two norms, and the matmuls after attention and of the feed-forward."""

    apart = False

    def __init__(self, block: Block, modulation: Tensor | None, phase: int, style: GraphStyle) -> None:
        super().__init__()
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = constants(block, modulation, phase)
        self.elementwise = Elementwise(style)
        self.norm1 = Norm(block.norm1.weight * (1 + scale_a), block.norm1.bias * (1 + scale_a) + shift_a)
        self.attention = AttentionGraph(block.attn, style, apart=self.apart)
        self.proj = self.attention.last(block.attn.proj, gate_a)
        self.norm2 = Norm(block.norm2.weight * (1 + scale_m), block.norm2.bias * (1 + scale_m) + shift_m)
        self.fc1 = matmul(block.mlp.fc1, style.dtype)
        self.fc2 = gated(block.mlp.fc2.weight, block.mlp.fc2.bias, gate_m, style.dtype)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add attention's result, then the feed-forward, to the queries' rows x, all (R·Q, D)."""
        x = self.elementwise.residual(x, self.proj.bias_pending(mixed))
        hidden = self.elementwise.activation(self.fc1.bias_pending(self.elementwise.norm(self.norm2, x)), "gelu")
        return self.elementwise.residual(x, self.fc2.bias_pending(hidden))


class FoldedBlock(_Branches):
    """x + proj(attention(norm1(x))), then x + fc2(GELU(fc1(norm2(x)))); the stream x is float32."""

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Map (R·T, D), whose R and T `rows` says, to the same."""
        return self.finish(x, self.attention(self.elementwise.norm(self.norm1, x), rows, rows))


class LastBlock(_Branches):
    """A FoldedBlock of which some positions alone are read: keys and values of all, everything else of those."""

    apart = True

    def forward(self, x: Tensor, rows: Rows, first: int, count: int) -> Tensor:
        """Map (R·T, D) to (R·count, D): positions first … first+count-1 of each row."""
        normal = self.elementwise.norm(self.norm1, x)
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


def fold_blocks(model: HiMAR, name: Literal["encoder", "decoder"], phase: int, style: GraphStyle) -> nn.ModuleList:
    """Fold phase `phase` into the blocks of encoder or decoder; the decoder's last is a LastBlock."""
    modulation = model.modulation(name, phase)
    blocks = [block for block in model.get_submodule(f"{name}_blocks").children() if isinstance(block, Block)]
    folded: list[nn.Module] = [FoldedBlock(block, modulation, phase, style) for block in blocks]
    if name == "decoder":
        folded[-1] = LastBlock(blocks[-1], modulation, phase, style)
    return nn.ModuleList(folded)
