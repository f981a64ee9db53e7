"""Counts the work of one call of each network, as its engine or the eager modules do it (docs/model.md §3, §4).

`held` is what the precision of a component's matmuls holds (`cost.Held`: 2 bytes each in half precision). Residual
streams and the islands (export.components) are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from himar.families.hi_mar.config import ModelConfig, ScaleVector
from himar_export.cost.blocks import block, last_block
from himar_export.cost.cost import FLOAT32, FLOATS, Held, Work, matmul, passing, table
from himar_kernels.families.hi_mar.phases import HeadKind, ModelInfo, PhaseInfo

# As in himar.families.hi_mar.transformer and himar.families.hi_mar.layers, which import torch; a cost needs none.
MODULATIONS: Mapping[ScaleVector, int] = {"none": 0, "learned": 4, "sinusoidal": 6}
TIMESTEP_FREQUENCIES = 128


def runtime_model(config: ModelConfig) -> ModelInfo:
    """Return what the runtime reads of a configuration, as `phases.model_info` does, which imports torch."""
    return ModelInfo(**{field.name: getattr(config, field.name) for field in fields(ModelInfo)})


def config_phases(config: ModelConfig) -> tuple[PhaseInfo, ...]:
    """Return the phases that a model has, in order, with the names of their components."""
    return runtime_model(config).phases


def head_width(config: ModelConfig, kind: HeadKind) -> int:
    """Return W, the width of a kind of head."""
    return config.mlp_width if kind == "mlp" else config.dit_width


def transformer(config: ModelConfig, phase: PhaseInfo, rows: int, masked: int, held: Held = FLOATS) -> Work:
    """One run up to z of the phase's n positions; `masked` of them are hidden from the encoder, the rest it sees.

    The decoder's last block makes keys and values of all positions, and everything else of those n.
    """
    decoded = config.buffer + config.positions
    work = _up_to_the_last_block(config, phase, rows, masked, held)
    return work + last_block(rows, decoded, phase.positions, config.width, held)


def eager_transformer(config: ModelConfig, phase: PhaseInfo, rows: int, masked: int) -> Work:
    """The same run of the eager modules: z of all L positions, and what makes the stacks' scale vectors."""
    work = _up_to_the_last_block(config, phase, rows, masked, FLOATS)
    return work + block(rows, config.buffer + config.positions, config.width) + scale_vectors(config)


def _up_to_the_last_block(config: ModelConfig, phase: PhaseInfo, rows: int, masked: int, held: Held) -> Work:
    D, decoded = config.width, config.buffer + config.positions
    embedded = config.buffer + phase.always + phase.positions
    encoded = embedded - masked
    work = matmul(rows * phase.positions, config.channels, D)
    if config.context_shape is not None:
        work += matmul(rows * config.buffer, config.context_width, D)
    if phase.pivot_width:
        work += guide(config, rows * phase.always, held)
    # Position tables of encoder and decoder, mask tokens, and what is added to the phase's z.
    work += table((embedded + decoded + config.positions + phase.positions) * D)
    work += block(rows, encoded, D, held) * config.enc_depth
    work += matmul(rows * encoded, D, D, held.weight)
    return work + block(rows, decoded, D, held) * (config.dec_depth - 1)


def guide(config: ModelConfig, rows: int, held: Held = FLOATS) -> Work:
    """Project the pivots for phase high: condition tokens (rows, D), or visual ones (rows, C)."""
    if config.pivots == "visual":
        return matmul(rows, config.channels, config.width)
    return matmul(rows, config.width, config.width, held.weight)


def scale_vectors(config: ModelConfig) -> Work:
    """What makes both stacks' modulations of a phase; engines have them folded into their weights."""
    D, modulations = config.width, MODULATIONS[config.scale_vector]
    if not modulations:
        return Work()
    embedding = time_embedding(1, D) if config.scale_vector == "sinusoidal" else Work()
    return (embedding + matmul(1, D, modulations * D)) * 2


def time_embedding(rows: int, width: int) -> Work:
    """Embed `rows` timesteps; engines have a table of all."""
    return time_features(rows, width) + matmul(rows, width, width)


def time_features(rows: int, width: int) -> Work:
    """The first of the two matmuls that embed a timestep, from its cosines and sines."""
    return matmul(rows, 2 * TIMESTEP_FREQUENCIES, width)


def condition(config: ModelConfig, kind: HeadKind, rows: int) -> Work:
    """Embed z (rows, D) for a head; engines do it in the transformer's graph, for all positions of its phase."""
    return matmul(rows, config.width, head_width(config, kind))


def head(config: ModelConfig, kind: HeadKind, rows: int, tokens: int, held: Held = FLOATS) -> Work:
    """One diffusion step of a head over `tokens` positions of `rows` rows, from embedded conditions."""
    return mlp_head(config, rows * tokens, held) if kind == "mlp" else dit_head(config, rows, tokens, held)


def mlp_head(config: ModelConfig, samples: int, held: Held = FLOATS) -> Work:
    """One diffusion step of the MLP head; the modulations of all blocks are one matmul."""
    C, W, depth = config.channels, config.mlp_width, config.mlp_depth
    work = matmul(samples, C, W) + matmul(samples, W, 3 * W * depth, held.layer, FLOAT32, held.value)
    inner = matmul(samples, W, W, held.layer, FLOAT32, held.value)
    inner += matmul(samples, W, W, held.layer, held.between, FLOAT32)
    work += (inner + passing(samples * 3 * W, held.value) + passing(samples * W)) * depth
    return work + _final(samples, W, 2 * C, held)


def dit_head(config: ModelConfig, rows: int, tokens: int, held: Held = FLOATS) -> Work:
    """One diffusion step of the DiT head over (rows, tokens); every token has modulations of its own."""
    return dit_modulations(config, rows * tokens, held) + dit_held(config, rows, tokens, held)


def dit_modulations(config: ModelConfig, samples: int, held: Held = FLOATS) -> Work:
    """All modulations of the DiT head's blocks and of its last layer at one timestep."""
    W = config.dit_width
    return matmul(samples, W, 6 * W, held.layer, FLOAT32, held.value) * config.dit_depth + _last(samples, W, held)


def dit_held(config: ModelConfig, rows: int, tokens: int, held: Held = FLOATS) -> Work:
    """One diffusion step of the DiT head with its modulations given, which it reads."""
    C, W, n = config.channels, config.dit_width, rows * tokens
    work = matmul(n, C, W) + table(tokens * W)
    work += (block(rows, tokens, W, held) + passing(n * 6 * W, held.value)) * config.dit_depth
    return work + passing(n * 2 * W, _inner(held).value) + matmul(n, W, C)


def _final(rows: int, width: int, outputs: int, held: Held) -> Work:
    """The heads' last layer: its matmul in float32, in half precision its modulation in that; int8 leaves it whole."""
    return _last(rows, width, held) + passing(rows * 2 * width, _inner(held).value) + matmul(rows, width, outputs)


def _last(rows: int, width: int, held: Held) -> Work:
    """The modulations of the last layer."""
    inner = _inner(held)
    return matmul(rows, width, 2 * width, inner.layer, FLOAT32, inner.value)


def _inner(held: Held) -> Held:
    return held if held.weight == held.value else FLOATS
