"""The device memory of one lane: everything that the loop keeps, allocated once for the largest batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from himar_kernels.arithmetic.draws import IMAGE_ORIGIN
from himar_kernels.families.hi_mar import BASE_STEPS, STEP_STATE, Phase
from himar_kernels.families.hi_mar.device_state import CHAIN_COLUMNS
from himar_kernels.families.hi_mar.forecast import MOST_ORDER
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.queue.device import DeviceTensor, ResidentDevice, allocate_together

_FLOAT, _WORD, _INDEX, _BYTE = 4, 4, 8, 1


@dataclass(frozen=True)
class PhaseBuffers:
    """Addresses of what each phase has for itself: n are its positions."""

    timesteps: int  # int64 (chain length)
    chain: int  # float32 (chain length, 8)
    ranks: int  # uint32 (B, n)
    tokens: int  # float32 (2B, n, C)


@dataclass(frozen=True)
class Buffers:
    """Addresses of a lane's buffers; shapes for B = largest batch, rows are [conditional; unconditional].

    n, W: positions of a phase and width of its head's condition. What a step alone needs is shared by the phases and
    has room for the larger one; what no phase of the model needs has size 0.
    """

    state: int  # STEP_STATE
    fault: int  # uint32
    steps: int  # STEP_STATE (T), one for every autoregressive step
    origins: int  # IMAGE_ORIGIN (B), what draws come from
    class_row: int  # int64 (2B), or in a text model
    context: int  # float32 (2B, K, W)
    timestep: int  # int64 (1), what the heads read
    low_timesteps: int  # int64 (n)
    high_timesteps: int
    low_chain: int  # float32 (n, 8)
    high_chain: int
    low_ranks: int  # uint32 (B, S)
    high_ranks: int  # uint32 (B, N)
    revealed: int  # uint32 (B, max(S, N))
    visible: int  # int64 (2B, K + S + N)
    sources: int  # int64 (2B, K + S + N)
    noise: int  # float32 (B, max(S, N), C), noise that the host gives
    low_tokens: int  # float32 (2B, S, C)
    pivots: int  # float32 (2B, S, D)
    tokens: int  # float32 (2B, N, C)
    engine_pivots: int  # float32 (2B, S, D)
    condition: int  # float32 (2B, n, W)
    head_condition: int  # float32 (2B·r, W), the revealed rows, before an MLP head
    initial: int  # float32 (B, n, C), of a DiT head
    start: int  # float32 (B·r, C) of an MLP head, (B, n, C) of a DiT head: x̂0 between the steps of a solver
    x: int  # float32 (2B·r, C) of an MLP head, (2B, n, C) of a DiT head
    prediction: int  # float32 (2B·r, 2C) of an MLP head, (2B, n, C) of a DiT head
    settled: int  # as prediction: what reverse steps take where evaluations are left out
    differences: int  # float32 (order + 1, half of prediction): what forecasts are made from
    gap: int  # float32 (B·r, C) of an MLP head, (B, n, C) of a DiT head: conditional less unconditional noise
    latents: int  # float32 (B, C, N)
    image: int  # float32 (DECODE_BATCH, 3, H, W)
    pixels: int  # uint8 (B, H, W, 3)

    @classmethod
    def allocate(cls, device: ResidentDevice, model: ModelInfo, batch: int, widths: Mapping[Phase, int]) -> Buffers:
        """Allocate everything for `batch` images as one block."""
        return cls(**allocate_together(device, buffer_sizes(model, batch, widths)))

    def of(self, phase: PhaseInfo) -> PhaseBuffers:
        """Return the buffers of one phase."""
        if phase.name == "low":
            return PhaseBuffers(self.low_timesteps, self.low_chain, self.low_ranks, self.low_tokens)
        return PhaseBuffers(self.high_timesteps, self.high_chain, self.high_ranks, self.tokens)

    def tensor(self, name: str, *shape: int) -> DeviceTensor:
        """Return a buffer as a tensor of a shape no larger than its own."""
        return DeviceTensor(getattr(self, name), shape)


def buffer_sizes(model: ModelInfo, batch: int, widths: Mapping[Phase, int]) -> dict[str, int]:
    """Return the bytes of every buffer for `batch` images; widths: of the condition that each phase's head takes."""
    B, S, N, C, D = batch, model.low_positions, model.high_positions, model.channels, model.width
    area = model.img_size**2
    length = model.buffer + S + N
    pivots = S * D if model.pivots == "condition" else 0
    phases = [(phase.kind, phase.positions, widths[phase.name]) for phase in model.phases]
    predicted = max(n * (2 if kind == "mlp" else 1) for kind, n, _ in phases)
    return {
        "state": STEP_STATE.itemsize,
        "fault": _WORD,
        "steps": (S + N) * STEP_STATE.itemsize,  # a step reveals at least one position
        "origins": B * IMAGE_ORIGIN.itemsize,
        "class_row": 0 if model.context_shape else 2 * B * _INDEX,
        "context": 2 * B * math.prod(model.context_shape or (0,)) * _FLOAT,
        "timestep": _INDEX,
        "low_timesteps": BASE_STEPS * _INDEX,
        "high_timesteps": BASE_STEPS * _INDEX,
        "low_chain": BASE_STEPS * len(CHAIN_COLUMNS) * _FLOAT,
        "high_chain": BASE_STEPS * len(CHAIN_COLUMNS) * _FLOAT,
        "low_ranks": B * S * _WORD,
        "high_ranks": B * N * _WORD,
        "revealed": B * max(S, N) * _WORD,
        "visible": 2 * B * length * _INDEX,
        "sources": 2 * B * length * _INDEX,
        "noise": B * max(S, N) * C * _FLOAT,
        "low_tokens": 2 * B * S * C * _FLOAT,
        "pivots": 2 * B * pivots * _FLOAT,
        "tokens": 2 * B * N * C * _FLOAT,
        "engine_pivots": 2 * B * pivots * _FLOAT,
        "condition": 2 * B * max(n * W for _, n, W in phases) * _FLOAT,
        "head_condition": 2 * B * max(n * W if kind == "mlp" else 0 for kind, n, W in phases) * _FLOAT,
        "initial": B * max(n if kind == "dit" else 0 for kind, n, _ in phases) * C * _FLOAT,
        "start": B * max(n for _, n, _ in phases) * C * _FLOAT,
        "x": 2 * B * max(n for _, n, _ in phases) * C * _FLOAT,
        "prediction": 2 * B * predicted * C * _FLOAT,
        "settled": 2 * B * predicted * C * _FLOAT,
        "differences": (MOST_ORDER + 1) * B * predicted * C * _FLOAT,
        "gap": B * max(n for _, n, _ in phases) * C * _FLOAT,
        "latents": B * C * N * _FLOAT,
        "image": min(B, DECODE_BATCH) * 3 * area * _FLOAT,
        "pixels": B * area * 3 * _BYTE,
    }
