"""The work of a training step: a forward of its phases, the gradients, and what recomputing adds (himar-model.md §8).

Gradients cost twice what the forward does: one product for the input's gradient, one for the weight's. The few inputs
that need none (tokens, timestep features, detached pivots) are counted all the same, as utilisation usually is; at the
released sizes they are below a hundredth. Optimiser and moving average have no products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from himar.config import ModelConfig
from himar_kernels import InputError, Phase
from himar_runtime.phases import PhaseInfo

from .cost import product
from .cost_networks import (
    block,
    condition,
    config_phases,
    head,
    head_width,
    scale_vectors,
    time_embedding,
    transformer,
)


@dataclass(frozen=True)
class TrainingCost:
    """Operations of one step. forward_flops: of the loss; block_flops: the transformer blocks' share of it."""

    forward_flops: int
    block_flops: int

    @property
    def model_flops(self) -> int:
        """What the model needs, forward and backward: the numerator of model-FLOPs utilisation."""
        return 3 * self.forward_flops

    def executed_flops(self, recompute: bool) -> int:
        """What is done: `recompute` runs the transformer blocks' forward once more (4 times instead of 3 in all)."""
        return self.model_flops + (self.block_flops if recompute else 0)


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
    forward = blocks = 0
    for phase in config_phases(config):
        hidden = masked.get(phase.name, 0)
        if not 1 <= hidden <= phase.positions:
            raise InputError(
                f"{hidden} positions of phase {phase.name} are masked; a training step masks 1 to {phase.positions}."
            )
        forward += _phase_flops(config, phase, batch, hidden, repeats)
        blocks += _block_flops(config, phase, batch, hidden)
    if not config.single_scale:
        # What phase high sees where there is no pivot.
        forward += product(config.low_positions, config.channels, config.width).flops
    return TrainingCost(forward, blocks)


def _phase_flops(config: ModelConfig, phase: PhaseInfo, batch: int, masked: int, repeats: int) -> int:
    """Forward of a phase's transformer and head; an MLP head runs where masked and embeds every row's timestep."""
    work = transformer(config, phase, batch, masked) + scale_vectors(config)
    rows, tokens = batch * repeats, masked if phase.kind == "mlp" else phase.positions
    timesteps = rows * tokens if phase.kind == "mlp" else rows
    # The DiT head embeds z once, however many timesteps are drawn; the MLP head embeds it for each.
    conditions = rows * tokens if phase.kind == "mlp" else batch * tokens
    work += head(config, phase.kind, rows, tokens) + condition(config, phase.kind, conditions)
    return (work + time_embedding(timesteps, head_width(config, phase.kind))).flops


def _block_flops(config: ModelConfig, phase: PhaseInfo, batch: int, masked: int) -> int:
    encoded = config.buffer + phase.always + phase.positions - masked
    encoder = block(batch, encoded, config.width) * config.enc_depth
    decoder = block(batch, config.buffer + config.positions, config.width) * config.dec_depth
    return (encoder + decoder).flops
