"""Counts the work of a training step of either network over all scales at once (docs/hmar-model.md §6, §7).

Attention is block-diagonal: each scale's cells see their own scale. In the masked phase only the last blocks, the head,
its norm and mask_embed are trained; gradients still cross the frozen blocks, since mask_embed enters below them.
"""

from __future__ import annotations

from typing import Literal

from himar.families.hmar.config import ModelConfig
from himar_export.cost.blocks import block
from himar_export.cost.cost import Work, attention, matmul
from himar_export.cost.training import TrainingCost
from himar_kernels import InputError

from . import networks

Phase = Literal["next-scale", "masked"]


def training_cost(config: ModelConfig, batch: int, phase: Phase = "next-scale") -> TrainingCost:
    """Return the cost of a step of `batch` images, the tokenizer's work left out. Raises InputError below 1 image."""
    if batch < 1:
        raise InputError(f"batch is {batch}; a step needs at least 1 image.")
    scales, width = config.scales, config.width
    words = matmul(batch * (scales.tokens - scales.cells[0]), config.latent_channels, width)
    vectors = networks.modulations(config, batch, config.depth, 1)
    base, tail = (_blocks(config, count, batch) for count in (config.base, config.tail))
    head = matmul(batch * scales.tokens, width, config.vocab)
    forward = words + vectors + base + tail + head
    spared = words.flops  # the words are data
    if phase == "masked":
        frozen = networks.modulations(config, batch, config.base, 0).flops
        own = vectors.flops - frozen  # of a class row that is frozen
        inside = sum(attention(batch, cells, width).flops for cells in scales.cells) * config.base
        spared = 2 * words.flops + 2 * frozen + own + base.flops - inside
    return TrainingCost(forward.flops, (base + tail).flops, spared)


def _blocks(config: ModelConfig, count: int, batch: int) -> Work:
    each = (block(batch, cells, config.width) for cells in config.scales.cells)
    return sum(each, Work()) * count
