"""The whole HMAR model: a next-scale network and a masked network that share their first blocks (§4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from himar_kernels import ConfigError

from .attention import Attend, each_scale, own_scale
from .config import ModelConfig
from .transformer import Block, HeadNorm, Stack, embedding

Network = Literal["next-scale", "masked"]


class Conditions(NamedTuple):
    """What the class alone decides, computed once per image.

    cond: (R, C), the class's row. blocks: (D+n, R, 6, C), vectors of the base, next-scale and masked blocks in this
    order. heads: (2, R, 2, C), of the next-scale and the masked head. Without a masked network (D, …) and (1, …).
    """

    cond: Tensor
    blocks: Tensor
    heads: Tensor


class HMAR(nn.Module):
    """An HMAR model in the merged checkpoints' layout (docs/hmar-model.md §2, §4).

    family: its name in himar_kernels.families.registry.
    class_names: what its data called the classes, one name each ("" where unknown); None where nothing is known.
    """

    family = "hmar"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.class_names: tuple[str, ...] | None = None
        width, heads, scales = config.width, config.heads, config.scales
        self.class_emb = embedding(config.classes + 1, width)
        self.pos_start = nn.Parameter(torch.empty(1, scales.cells[0], width))
        self.pos_1LC = nn.Parameter(torch.empty(1, scales.tokens, width))
        self.lvl_embed = embedding(len(scales), width)
        self.word_embed = nn.Linear(config.latent_channels, width, bias=False)
        self.word_embed_bias = nn.Parameter(torch.empty(width))
        self.base_blocks = Stack(width, heads, config.base)
        self.ns_blocks = Stack(width, heads, config.tail)
        self.ns_head_nm = HeadNorm(width)
        self.ns_head = nn.Linear(width, config.vocab)
        if config.masked:
            self.mask_embed = embedding(1, width)
            self.mask_blocks = Stack(width, heads, config.tail)
            self.mask_head_nm = HeadNorm(width)
            self.mask_head = nn.Linear(width, config.vocab)

    @property
    def recompute(self) -> bool:
        """Whether blocks run again in the backward pass instead of keeping their activations."""
        return self.base_blocks.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        for module in self.modules():
            if isinstance(module, Stack):
                module.recompute = value

    def conditions(self, class_row: Tensor) -> Conditions:
        """Return what depends on the class alone; class_row (R,) is 0 … classes, `classes` the unconditional row."""
        cond = self.class_emb(class_row)
        tails = [self.ns_blocks, self.mask_blocks] if self.config.masked else [self.ns_blocks]
        norms = [self.ns_head_nm, self.mask_head_nm] if self.config.masked else [self.ns_head_nm]
        active = nn.functional.silu(cond)
        blocks = [vectors for stack in (self.base_blocks, *tails) for vectors in stack.vectors(active)]
        return Conditions(cond, torch.stack(blocks), torch.stack([norm.ada_lin.of_active(active) for norm in norms]))

    def first_input(self, cond: Tensor) -> Tensor:
        """Return the tokens of scale 0, (R, T_0, C), of class rows (R, C)."""
        return cond[:, None] + self.pos_start + self._places(0, 1)

    def scale_input(self, scale: int, ahead: Tensor) -> Tensor:
        """Return the next-scale network's tokens of a scale s ≥ 1, (B, T_s, C), of n_s (B, T_s, Cv)."""
        return self.word_embed(ahead) + self.word_embed_bias + self._places(scale, scale + 1)

    def masked_input(self, scale: int, ahead: Tensor, own: Tensor, masked: Tensor) -> Tensor:
        """Return the masked network's tokens of a scale s ≥ 1, (B, T_s, C).

        ahead, own: n_s and m_s, (B, T_s, Cv); masked: boolean, (B, T_s) or (T_s,).
        """
        return self._masked(ahead, own, masked) + self._places(scale, scale + 1)

    def next_scale_logits(self, class_row: Tensor, ahead: Tensor, kept: Tensor | None = None) -> Tensor:
        """Run the next-scale network on all scales at once: logits (B, L, V).

        class_row (B,); ahead: n_1 … n_{S-1} of the true codes, (B, L-T_0, Cv); kept: (D, 2, B), see `Block`.
        """
        cond, vectors = self._vectors(class_row, "next-scale")
        x = self.all_inputs(cond, ahead)
        return self._through(x, vectors, "next-scale", self._each_scale(x), kept)

    def masked_logits(
        self, class_row: Tensor, ahead: Tensor, own: Tensor, masked: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """Run the masked network on all scales at once: logits (B, L, V).

        own: m_1 … m_{S-1}, (B, L-T_0, Cv); masked: boolean over all L cells, (B, L) or (L,), False in scale 0. Others
        as in `next_scale_logits`.
        """
        cond, vectors = self._vectors(class_row, "masked")
        x = self.all_masked_inputs(cond, ahead, own, masked)
        return self._through(x, vectors, "masked", self._each_scale(x), kept)

    def all_inputs(self, cond: Tensor, ahead: Tensor) -> Tensor:
        """Return the next-scale network's tokens of all scales, (B, L, C)."""
        later = self.word_embed(ahead) + self.word_embed_bias + self._places(1, None)
        return torch.cat([self.first_input(cond).expand(len(ahead), -1, -1), later], dim=1)

    def all_masked_inputs(self, cond: Tensor, ahead: Tensor, own: Tensor, masked: Tensor) -> Tensor:
        """Return the masked network's tokens of all scales, (B, L, C)."""
        later = self._masked(ahead, own, masked[..., self.config.scales.cells[0] :]) + self._places(1, None)
        return torch.cat([self.first_input(cond).expand(len(ahead), -1, -1), later], dim=1)

    def run(
        self,
        x: Tensor,
        conditions: Conditions,
        network: Network,
        attends: Sequence[Attend] | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Map tokens (R, N, C) to logits (R, N, V) through one network, all its blocks and its head.

        attends: one per block; None means that the tokens are one scale's. kept: (D, 2, R), see `Block`.
        """
        trunk = conditions.blocks[: len(self.base_blocks)]
        vectors = (trunk, *self.tail_vectors(conditions, network))
        return self._through(x, vectors, network, attends or [own_scale] * self.config.depth, kept)

    def trunk(
        self, x: Tensor, vectors: Tensor, attends: Sequence[Attend] | None = None, kept: Tensor | None = None
    ) -> Tensor:
        """Run the blocks that both networks share; vectors (D-n, R, 6, C)."""
        return self.base_blocks.run(x, vectors, attends or [own_scale] * len(self.base_blocks), kept)

    def tail(
        self,
        network: Network,
        x: Tensor,
        vectors: Tensor,
        head_vectors: Tensor,
        attends: Sequence[Attend] | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Run the last blocks and the head of a network: (R, N, C) to logits (R, N, V).

        vectors (n, R, 6, C), head_vectors (R, 2, C): see `tail_vectors`.
        """
        blocks, norm, head = self._tail(network)
        x = blocks.run(x, vectors, attends or [own_scale] * len(blocks), kept)
        return head(norm(x, head_vectors))

    def tail_vectors(self, conditions: Conditions, network: Network) -> tuple[Tensor, Tensor]:
        """Return what a network's own blocks and head take of the conditions: (n, R, 6, C) and (R, 2, C)."""
        first = len(self.base_blocks) + (self.config.tail if network == "masked" else 0)
        self._tail(network)
        return conditions.blocks[first : first + self.config.tail], conditions.heads[int(network == "masked")]

    def _vectors(self, class_row: Tensor, network: Network) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """As `conditions`, of one network alone: cond, and the vectors of its trunk, its own blocks and its head."""
        blocks, norm, _ = self._tail(network)
        cond = self.class_emb(class_row)
        active = nn.functional.silu(cond)
        every = torch.stack([*self.base_blocks.vectors(active), *blocks.vectors(active)])
        base = len(self.base_blocks)
        return cond, (every[:base], every[base:], norm.ada_lin.of_active(active))

    def _through(
        self,
        x: Tensor,
        vectors: tuple[Tensor, Tensor, Tensor],
        network: Network,
        attends: Sequence[Attend],
        kept: Tensor | None,
    ) -> Tensor:
        trunk, blocks, head = vectors
        base = len(self.base_blocks)
        trunk_kept, tail_kept = (None, None) if kept is None else (kept[:base], kept[base:])
        x = self.trunk(x, trunk, attends[:base], trunk_kept)
        return self.tail(network, x, blocks, head, attends[base:], tail_kept)

    def _tail(self, network: Network) -> tuple[Stack, HeadNorm, nn.Linear]:
        if network == "next-scale":
            return self.ns_blocks, self.ns_head_nm, self.ns_head
        if not self.config.masked:
            raise ConfigError("this model has the next-scale network alone; bring a checkpoint with the masked one.")
        return self.mask_blocks, self.mask_head_nm, self.mask_head

    def _masked(self, ahead: Tensor, own: Tensor, masked: Tensor) -> Tensor:
        self._tail("masked")
        words = self.word_embed(ahead + torch.where(masked[..., None], 0, own))
        return words + masked[..., None] * self.mask_embed.weight + self.word_embed_bias

    def _places(self, first: int, end: int | None) -> Tensor:
        """Return what tells cells of the scales first … end-1 apart: level and position, (1, cells, C)."""
        scales = self.config.scales
        chosen = range(len(scales))[first:end]
        levels = torch.cat([self.lvl_embed.weight[scale].expand(scales.cells[scale], -1) for scale in chosen])
        start = scales.starts[first]
        return levels + self.pos_1LC[:, start : start + len(levels)]

    def _each_scale(self, x: Tensor) -> list[Attend]:
        return [each_scale(self.config.scales.cells, len(x), x.device)] * self.config.depth


@torch.no_grad()
def initialise(model: HMAR, seed: int, gate: float = 1e-3) -> HMAR:
    """Set weights for training from scratch (§7), the same for the same seed; returns the model.

    gate: factor on the rows of adaLN that make gates; the released models have 1e-3, deeper ones less. The masked
    network starts as a copy of the next-scale one.
    """
    generator = torch.Generator().manual_seed(seed)
    sigma = math.sqrt(1 / (3 * model.config.width))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name.endswith("scale_mul_1H11"):
            nn.init.constant_(parameter, math.log(4))
        else:
            nn.init.normal_(parameter, std=sigma, generator=generator)
    for module in model.modules():
        if isinstance(module, Block):
            module.attn.proj.weight /= math.sqrt(2 * model.config.depth)
            module.ffn.fc2.weight /= math.sqrt(2 * model.config.depth)
            vectors = module.ada_lin.linear.weight.unflatten(0, (module.ada_lin.vectors, -1))
            vectors[:2] *= gate
            vectors[2:] *= 0.5
        elif isinstance(module, HeadNorm):
            module.ada_lin.linear.weight *= 0.5
    model.ns_head.weight *= 0.02
    start_masked(model)
    return model


@torch.no_grad()
def start_masked(model: HMAR) -> HMAR:
    """Copy the next-scale network's last blocks and head into the masked network, where its training starts (§7)."""
    if model.config.masked:
        pairs = ((model.mask_blocks, model.ns_blocks), (model.mask_head_nm, model.ns_head_nm))
        for mine, theirs in (*pairs, (model.mask_head, model.ns_head)):
            mine.load_state_dict(theirs.state_dict())
    return model


@torch.no_grad()
def randomise(model: HMAR, seed: int) -> HMAR:
    """Give every parameter a value that matters, so that an export of random weights can be checked.

    Both networks differ, gates and heads are as large as other weights, and biases are not zero.
    """
    initialise(model, seed, gate=1.0)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        if name.startswith(("mask_blocks", "mask_head")) or name.endswith("head.weight") or not parameter.any():
            nn.init.normal_(parameter, std=math.sqrt(1 / (3 * model.config.width)), generator=generator)
    return model
