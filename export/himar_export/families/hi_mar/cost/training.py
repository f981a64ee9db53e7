"""Counts the work of a training step: forward of its phases, gradients, and recomputation (docs/model.md §8).

Inputs that need no gradient are tokens, timestep features and detached pivots.
"""

from __future__ import annotations

from collections.abc import Mapping

from himar.families.hi_mar.config import ModelConfig
from himar_export.cost.blocks import block
from himar_export.cost.cost import matmul
from himar_export.cost.training import TrainingCost
from himar_kernels import InputError
from himar_kernels.families.hi_mar import Phase
from himar_kernels.families.hi_mar.phases import PhaseInfo

from .networks import (
    condition,
    config_phases,
    eager_transformer,
    guide,
    head,
    head_width,
    time_embedding,
    time_features,
)


def training_cost(config: ModelConfig, batch: int, masked: Mapping[Phase, int], repeats: int = 1) -> TrainingCost:
    """Return the cost of a step.

    Args:
        config: the model.
        batch: images.
        masked: positions that each phase hides, ⌈ratio·n⌉ of a step's draw.
        repeats: diffusion timesteps per token of an MLP head and per image of a DiT head.

    Raises InputError when a phase hides none or more than it has.
    """
    if batch < 1 or repeats < 1:
        raise InputError(f"batch is {batch} and repeats {repeats}; a step needs at least 1 of each.")
    total = TrainingCost(0, 0, 0)
    for phase in config_phases(config):
        hidden = masked.get(phase.name, 0)
        if not 1 <= hidden <= phase.positions:
            raise InputError(
                f"{hidden} positions of phase {phase.name} are masked; a training step masks 1 to {phase.positions}."
            )
        total += _phase_cost(config, phase, batch, hidden, repeats)
    if not config.single_scale:
        # What phase high sees where there is no pivot: learned, so nothing of it is data.
        total += TrainingCost(matmul(config.low_positions, config.channels, config.width).flops, 0, 0)
    return total


def _phase_cost(config: ModelConfig, phase: PhaseInfo, batch: int, masked: int, repeats: int) -> TrainingCost:
    """A phase's transformer and head; an MLP head runs where masked and embeds every row's timestep."""
    rows, tokens = batch * repeats, masked if phase.kind == "mlp" else phase.positions
    timesteps = rows * tokens if phase.kind == "mlp" else rows
    # The DiT head embeds z once, however many timesteps are drawn; the MLP head embeds it for each.
    conditions = rows * tokens if phase.kind == "mlp" else batch * tokens
    width = head_width(config, phase.kind)
    work = eager_transformer(config, phase, batch, masked)
    work += head(config, phase.kind, rows, tokens) + condition(config, phase.kind, conditions)
    work += time_embedding(timesteps, width)

    data = matmul(batch * phase.positions, config.channels, config.width)
    data += matmul(rows * tokens, config.channels, width) + time_features(timesteps, width)
    if phase.pivot_width:
        data += guide(config, batch * phase.always)
    if config.scale_vector == "sinusoidal":
        data += time_features(1, config.width) * 2
    return TrainingCost(work.flops, _block_flops(config, phase, batch, masked), data.flops)


def _block_flops(config: ModelConfig, phase: PhaseInfo, batch: int, masked: int) -> int:
    encoded = config.buffer + phase.always + phase.positions - masked
    encoder = block(batch, encoded, config.width) * config.enc_depth
    decoder = block(batch, config.buffer + config.positions, config.width) * config.dec_depth
    return (encoder + decoder).flops
