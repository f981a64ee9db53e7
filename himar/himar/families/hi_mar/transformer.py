"""Defines the scale-aware masked transformer: one encoder and decoder, run in phase low and in phase high (§3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from himar_kernels import InputError

from .config import ModelConfig, ScaleVector
from .layers import EPS, Attention, FeedForward, TimestepEmbedding, embedding, modulate

LOW, HIGH = 0, 1
"""Rows of the scale embedding: phase low, phase high."""


MODULATIONS: Mapping[ScaleVector, int] = {"none": 0, "learned": 4, "sinusoidal": 6}
"""Vectors that modulate a block: scale and gate of both branches; "sinusoidal" has a shift of each as well."""


class Block(nn.Module):
    """Pre-norm block whose norms are scaled, and whose branches are gated, per phase (§3).

    scale_vector: "learned" as in the released models; "sinusoidal" also shifts; "none" is a plain block.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, scale_vector: ScaleVector = "learned") -> None:
        super().__init__()
        self.modulations = MODULATIONS[scale_vector]
        if self.modulations:
            self.adaLN_scale = nn.Parameter(torch.empty(2, 1, 1, self.modulations * width))
            self.adaLN_shift = nn.Parameter(torch.empty(2, 1, 1, self.modulations * width))
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = FeedForward(width, "none", dropout)

    def scales(self, modulation: Tensor, phase: int) -> tuple[Tensor, ...]:
        """Return scale_a, gate_a, scale_m, gate_m, each (1, 1, D); `modulation` is the stack's `a` (4D).

        With a sinusoidal scale vector (6D) a shift stands before each scale.
        """
        return (modulation * self.adaLN_scale[phase] + self.adaLN_shift[phase]).chunk(self.modulations, dim=-1)

    def forward(self, x: Tensor, modulation: Tensor | None, phase: int) -> Tensor:
        """Map (R, T, D) to (R, T, D); `modulation` is None without a scale vector."""
        if modulation is None:
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        if self.modulations == MODULATIONS["sinusoidal"]:
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.scales(modulation, phase)
            x = x + gate_a * self.attn(modulate(self.norm1(x), shift_a, scale_a))
            return x + gate_m * self.mlp(modulate(self.norm2(x), shift_m, scale_m))
        scale_a, gate_a, scale_m, gate_m = self.scales(modulation, phase)
        x = x + gate_a * self.attn(self.norm1(x) * (1 + scale_a))
        return x + gate_m * self.mlp(self.norm2(x) * (1 + scale_m))


class MaskedTransformer(nn.Module):
    """Predicts the condition of every position from what the image is to show and the visible tokens.

    Parameter names and shapes are the released checkpoints'; a variant lacks what it does not use. What the image is
    to show comes as one tensor, `shown`: class rows (R,), integers that index the class table extended by one row,
    `classes`, the unconditional context; or, in a model from text, contexts (R, K, W), of which `empty_context`
    (1, K, W), that of the empty text, is the unconditional one (docs/model.md §11).

    recompute: recompute every block's activations in the backward pass instead of keeping them.
    """

    empty_context: Tensor
    encoder_blocks: nn.ModuleList
    encoder_task_emb: nn.Embedding
    encoder_blocks_ada: nn.Sequential
    decoder_blocks: nn.ModuleList
    decoder_task_emb: nn.Embedding
    decoder_blocks_ada: nn.Sequential

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        width, K, L = config.width, config.buffer, config.positions
        phases = 1 if config.single_scale else 2
        if not config.from_text:
            self.fake_latent = nn.Parameter(torch.empty(1, width))
        if not config.single_scale:
            self.cond_tokens = nn.Parameter(torch.empty(1, config.low_positions, config.channels))
        self.mask_token = nn.Parameter(torch.empty(1, mask_rows(config), width))
        self.encoder_pos_embed_learned = nn.Parameter(torch.empty(1, phases * (K + L), width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.empty(1, phases * (K + L), width))
        self.diffusion_pos_embed_learned = nn.Parameter(torch.empty(1, L, width))
        if config.from_text:
            self.text_proj = nn.Linear(config.context_width, width)
            self.register_buffer("empty_context", torch.zeros(1, K, config.context_width))
        else:
            self.class_emb = embedding(config.classes, width)
        self.z_proj = nn.Linear(config.channels, width)
        self.z_proj_ln = nn.LayerNorm(width, eps=EPS)
        if config.pivots == "condition":
            self.cond_z_proj = nn.Linear(width, width)
        if not config.single_scale:
            self.cond_proj = nn.Linear(config.channels, width)
        self._add_stack("encoder", config.enc_depth, dropout)
        self.encoder_norm = nn.LayerNorm(width, eps=EPS)
        self.decoder_embed = nn.Linear(width, width)
        self._add_stack("decoder", config.dec_depth, dropout)
        self.decoder_norm = nn.LayerNorm(width, eps=EPS)

    def _add_stack(self, name: str, depth: int, dropout: float) -> None:
        """Add the blocks of encoder or decoder and what makes their modulation from the phase."""
        width, heads, kind = self.config.width, self.config.heads, self.config.scale_vector
        blocks = nn.ModuleList(Block(width, heads, dropout, kind) for _ in range(depth))
        self.add_module(f"{name}_blocks", blocks)
        if kind != "none":
            scales = embedding(2, width) if kind == "learned" else TimestepEmbedding(width)
            self.add_module(f"{name}_task_emb", scales)
            linear = nn.Linear(width, MODULATIONS[kind] * width)
            self.add_module(f"{name}_blocks_ada", nn.Sequential(nn.SiLU(), linear))

    def transformer_low(self, shown: Tensor, low_tokens: Tensor, known: Tensor) -> Tensor:
        """Phase low: z of all L positions from the visible low tokens.

        Args:
            shown: class rows (R,), or contexts (R, K, W) of a model from text.
            low_tokens: (R, S, C); values at masked positions are ignored.
            known: (R, S) boolean, True where visible, equally many in every row.

        Returns:
            z (R, L, D); its first S rows are the candidates for pivots and the MLP head's condition.
        """
        return self._run(shown, self.cond_proj(low_tokens), known, LOW)

    def transformer_high(
        self, shown: Tensor, pivots: Tensor | None, tokens: Tensor, known: Tensor, unguided: Tensor | None = None
    ) -> Tensor:
        """Phase high: z of all L positions from the pivots and the visible high tokens.

        Args:
            shown: class rows (R,), or contexts (R, K, W) of a model from text.
            pivots: (R, S, D), z of phase low captured when each position was revealed; with visual pivots the low
                tokens (R, S, C); None with a single scale.
            tokens: (R, N, C); values at masked positions are ignored.
            known: (R, N) boolean, True where visible, equally many in every row.
            unguided: (R, S) boolean, True at low positions without a pivot, which show the placeholder that training
                has there (§8); None where all have one.

        Returns:
            z (R, L, D); its last N rows are the condition of phase high's head.
        """
        low_rows = None if pivots is None else self.guide(pivots)
        if low_rows is not None and unguided is not None:
            low_rows = torch.where(unguided[..., None], self.cond_proj(self.cond_tokens), low_rows)
        return self.run_high(shown, low_rows, tokens, known)

    def guide(self, pivots: Tensor) -> Tensor:
        """Project pivots, (R, S, D) or visual (R, S, C), to the rows (R, S, D) that phase high sees."""
        return self.cond_proj(pivots) if self.config.pivots == "visual" else self.cond_z_proj(pivots)

    def run_high(self, shown: Tensor, low_rows: Tensor | None, tokens: Tensor, known: Tensor) -> Tensor:
        """`transformer_high` from low rows already projected to (R, S, D); training mixes its own (§8)."""
        embedded = self.z_proj(tokens)
        if low_rows is not None:
            low_known = torch.ones(low_rows.shape[:2], dtype=torch.bool, device=known.device)
            embedded = torch.cat([low_rows, embedded], dim=1)
            known = torch.cat([low_known, known], dim=1)
        return self._run(shown, embedded, known, HIGH)

    def context(self, shown: Tensor) -> Tensor:
        """Return the context rows (R, K, D): K equal ones of each class row, or the projections of contexts."""
        if self.config.from_text:
            return self.text_proj(shown)
        table = torch.cat([self.class_emb.weight, self.fake_latent])
        return nn.functional.embedding(shown, table)[:, None].expand(-1, self.config.buffer, -1)

    def unconditional(self, shown: Tensor) -> Tensor:
        """Return as many rows as are given that show nothing: the unconditional class row, or the empty context."""
        if self.config.from_text:
            return self.empty_context.to(shown.dtype).expand(len(shown), -1, -1)
        return torch.full_like(shown, self.config.classes)

    def without(self, shown: Tensor, dropped: Tensor, empty: Tensor | None = None) -> Tensor:
        """Return what rows show, the unconditional row where `dropped` (R,) is True.

        empty: (1, K, W) in place of the model's empty context, where the text tower is trained with the model.
        """
        unconditional = self.unconditional(shown) if empty is None else empty
        return torch.where(dropped.view(-1, *[1] * (shown.ndim - 1)), unconditional, shown)

    def _run(self, shown: Tensor, embedded: Tensor, known: Tensor, phase: int) -> Tensor:
        """Encode context and known positions, decode all; `embedded` (R, P, D) covers the first P positions."""
        K, L = self.config.buffer, self.config.positions
        rows = torch.arange(len(embedded), device=embedded.device)[:, None]
        visible = visible_indices(known, K)
        table = 0 if self.config.single_scale else phase
        offset = table * (K + L)
        sequence = torch.cat([self.context(shown), embedded], dim=1)
        sequence = sequence + self.encoder_pos_embed_learned[:, offset : offset + sequence.shape[1]]
        x = self.z_proj_ln(sequence)[rows, visible]
        x = self._stack("encoder", x, phase)
        x = self.decoder_embed(self.encoder_norm(x))

        masks = self.masks(phase).expand(len(x), -1, -1)
        full = torch.cat([x[:, :K], masks.to(x.dtype)], dim=1)
        full = full.index_put((rows, visible), x)
        full = full + self.decoder_pos_embed_learned[:, offset : offset + K + L]
        full = self._stack("decoder", full, phase)
        return self.decoder_norm(full)[:, K:] + self.diffusion_pos_embed_learned

    def _stack(self, name: str, x: Tensor, phase: int) -> Tensor:
        modulation = self.modulation(name, phase)
        for block in self.get_submodule(f"{name}_blocks").children():
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, modulation, phase, use_reentrant=False)
            else:
                x = block(x, modulation, phase)
        return x

    def masks(self, phase: int) -> Tensor:
        """Return the mask tokens (1, L, D) of a phase; variants share them between phases, or among all positions."""
        L = self.config.positions
        first = phase * L if self.mask_token.shape[1] == 2 * L else 0
        return self.mask_token[:, first : first + L].expand(-1, L, -1)

    def modulation(self, name: str, phase: int) -> Tensor | None:
        """Return a phase's `a` (4D, or 6D) for the blocks of "encoder" or "decoder"; None without a scale vector."""
        if self.config.scale_vector == "none":
            return None
        embedding = self.get_submodule(f"{name}_task_emb")
        if isinstance(embedding, nn.Embedding):
            vector = embedding.weight[phase]
        else:
            vector = embedding(torch.tensor([phase], device=self.mask_token.device))
        return self.get_submodule(f"{name}_blocks_ada")(vector)


def mask_rows(config: ModelConfig) -> int:
    """Rows of `mask_token`: one per phase and position; shared by phases, or by all positions, in variants."""
    if config.single_scale:
        return 1
    return config.positions if config.scale_vector == "none" else 2 * config.positions


def visible_indices(known: Tensor, context: int) -> Tensor:
    """Return (R, K+V): the K context rows, then each row's known positions (offset by K) in ascending order.

    Raises InputError when rows know unequally many positions.
    """
    counts = known.sum(dim=1).tolist()
    if any(count != counts[0] for count in counts):
        raise InputError(f"rows of one batch must know equally many positions; these know {counts}.")
    order = known.nonzero()[:, 1].view(len(known), counts[0]) + context
    rows = torch.arange(context, device=known.device).expand(len(known), -1)
    return torch.cat([rows, order], dim=1)
