"""The scale-aware masked transformer: one encoder and decoder, run in phase low and in phase high (§3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from himar_kernels import InputError

from .config import ModelConfig
from .layers import EPS, Attention, FeedForward

LOW, HIGH = 0, 1
"""Rows of the scale embedding: phase low, phase high."""


class Block(nn.Module):
    """Pre-norm block whose norms are scaled, and whose branches are gated, per phase (§3)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.adaLN_scale = nn.Parameter(torch.empty(2, 1, 1, 4 * width))
        self.adaLN_shift = nn.Parameter(torch.empty(2, 1, 1, 4 * width))
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = FeedForward(width, "none", dropout)

    def scales(self, modulation: Tensor, phase: int) -> tuple[Tensor, ...]:
        """Return scale_a, gate_a, scale_m, gate_m, each (1, 1, D); `modulation` is the stack's `a` (4D)."""
        return (modulation * self.adaLN_scale[phase] + self.adaLN_shift[phase]).chunk(4, dim=-1)

    def forward(self, x: Tensor, modulation: Tensor, phase: int) -> Tensor:
        """Map (R, T, D) to (R, T, D)."""
        scale_a, gate_a, scale_m, gate_m = self.scales(modulation, phase)
        x = x + gate_a * self.attn(self.norm1(x) * (1 + scale_a))
        return x + gate_m * self.mlp(self.norm2(x) * (1 + scale_m))


class MaskedTransformer(nn.Module):
    """Predicts the condition of every position from a class and the visible tokens.

    Parameter names and shapes are the released checkpoints'. Class rows index the class table extended by one
    row, `classes`, the unconditional context.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        width, K, L = config.width, config.buffer, config.positions
        self.fake_latent = nn.Parameter(torch.empty(1, width))
        self.cond_tokens = nn.Parameter(torch.empty(1, config.low_positions, config.channels))
        self.mask_token = nn.Parameter(torch.empty(1, 2 * L, width))
        self.encoder_pos_embed_learned = nn.Parameter(torch.empty(1, 2 * (K + L), width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.empty(1, 2 * (K + L), width))
        self.diffusion_pos_embed_learned = nn.Parameter(torch.empty(1, L, width))
        self.class_emb = nn.Embedding(config.classes, width)
        self.z_proj = nn.Linear(config.channels, width)
        self.z_proj_ln = nn.LayerNorm(width, eps=EPS)
        self.cond_z_proj = nn.Linear(width, width)
        self.cond_proj = nn.Linear(config.channels, width)
        self.encoder_blocks = nn.ModuleList(Block(width, config.heads, dropout) for _ in range(config.enc_depth))
        self.encoder_task_emb = nn.Embedding(2, width)
        self.encoder_blocks_ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 4 * width))
        self.encoder_norm = nn.LayerNorm(width, eps=EPS)
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_blocks = nn.ModuleList(Block(width, config.heads, dropout) for _ in range(config.dec_depth))
        self.decoder_task_emb = nn.Embedding(2, width)
        self.decoder_blocks_ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 4 * width))
        self.decoder_norm = nn.LayerNorm(width, eps=EPS)

    def transformer_low(self, class_row: Tensor, low_tokens: Tensor, known: Tensor) -> Tensor:
        """Phase low: z of all L positions from the visible low tokens.

        Args:
            class_row: (R,) integers, 0 … classes; `classes` is the unconditional row.
            low_tokens: (R, S, C); values at masked positions are ignored.
            known: (R, S) boolean, True where visible, equally many in every row.

        Returns:
            z (R, L, D); its first S rows are the candidates for pivots and the MLP head's condition.
        """
        return self._run(class_row, self.cond_proj(low_tokens), known, LOW)

    def transformer_high(self, class_row: Tensor, pivots: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        """Phase high: z of all L positions from the pivots and the visible high tokens.

        Args:
            class_row: (R,) integers, 0 … classes; `classes` is the unconditional row.
            pivots: (R, S, D), z of phase low captured when each position was revealed.
            tokens: (R, N, C); values at masked positions are ignored.
            known: (R, N) boolean, True where visible, equally many in every row.

        Returns:
            z (R, L, D); its last N rows are the DiT head's condition.
        """
        return self.run_high(class_row, self.cond_z_proj(pivots), tokens, known)

    def run_high(self, class_row: Tensor, low_rows: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        """`transformer_high` from low rows already projected to (R, S, D); training mixes its own (§8)."""
        low_known = torch.ones(low_rows.shape[:2], dtype=torch.bool, device=known.device)
        embedded = torch.cat([low_rows, self.z_proj(tokens)], dim=1)
        return self._run(class_row, embedded, torch.cat([low_known, known], dim=1), HIGH)

    def context(self, class_row: Tensor) -> Tensor:
        """Return the K equal context rows (R, K, D) of each class row."""
        table = torch.cat([self.class_emb.weight, self.fake_latent])
        return nn.functional.embedding(class_row, table)[:, None].expand(-1, self.config.buffer, -1)

    def _run(self, class_row: Tensor, embedded: Tensor, known: Tensor, phase: int) -> Tensor:
        """Encode context and known positions, decode all; `embedded` (R, P, D) covers the first P positions."""
        K, L = self.config.buffer, self.config.positions
        rows = torch.arange(len(embedded), device=embedded.device)[:, None]
        visible = visible_indices(known, K)
        offset = phase * (K + L)
        sequence = torch.cat([self.context(class_row), embedded], dim=1)
        sequence = sequence + self.encoder_pos_embed_learned[:, offset : offset + sequence.shape[1]]
        x = self.z_proj_ln(sequence)[rows, visible]
        x = self._stack(x, self.encoder_blocks, self.encoder_task_emb, self.encoder_blocks_ada, phase)
        x = self.decoder_embed(self.encoder_norm(x))

        masks = self.mask_token[:, phase * L : (phase + 1) * L].expand(len(x), -1, -1)
        full = torch.cat([x[:, :K], masks.to(x.dtype)], dim=1)
        full = full.index_put((rows, visible), x)
        full = full + self.decoder_pos_embed_learned[:, offset : offset + K + L]
        full = self._stack(full, self.decoder_blocks, self.decoder_task_emb, self.decoder_blocks_ada, phase)
        return self.decoder_norm(full)[:, K:] + self.diffusion_pos_embed_learned

    @staticmethod
    def _stack(x: Tensor, blocks: nn.ModuleList, task_emb: nn.Embedding, ada: nn.Sequential, phase: int) -> Tensor:
        modulation = ada(task_emb.weight[phase])
        for block in blocks:
            x = block(x, modulation, phase)
        return x


def visible_indices(known: Tensor, context: int) -> Tensor:
    """Return (R, K+V): the K context rows, then each row's known positions (offset by K) in ascending order.

    Raises InputError when rows know unequally many positions.
    """
    counts = known.sum(dim=1)
    if not torch.equal(counts, counts[:1].expand_as(counts)):
        raise InputError(f"rows of one batch must know equally many positions; these know {counts.tolist()}.")
    order = known.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts[0])] + context
    rows = torch.arange(context, device=known.device).expand(len(known), -1)
    return torch.cat([rows, order], dim=1)
