"""What belongs to one lane, and what belongs to one request on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from himar_kernels.families.hi_mar import AnyChain, Phase
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_runtime.bundle.schema import ComponentSpec
from himar_runtime.queue.device import DeviceTensor, ResidentDevice, ResidentEngine, allocate_together
from himar_runtime.queue.replays import Replays

from ..loop import Request
from .buffers import Buffers
from .noise import NoiseSource


@dataclass(frozen=True)
class HeldBuffers:
    """Where the modulations of a DiT head lie between its two engines, `maker` and `head`.

    places: address and shape of each for one row, by name.
    """

    maker: ResidentEngine
    head: ResidentEngine
    places: Mapping[str, tuple[int, tuple[int, ...]]]

    @classmethod
    def allocate(cls, device: ResidentDevice, maker: ResidentEngine, head: ResidentEngine, rows: int) -> HeldBuffers:
        """Allocate what so many rows [conditional; unconditional] take as one block."""
        shapes, found = _shapes(maker.spec), allocate_together(device, held_sizes(maker.spec, rows))
        return cls(maker, head, {name: (at, shapes[name]) for name, at in found.items()})

    def tensors(self, rows: int) -> dict[str, DeviceTensor]:
        """Return the modulations of the first rows."""
        return {name: DeviceTensor(at, (rows, *shape)) for name, (at, shape) in self.places.items()}


def held_sizes(maker: ComponentSpec, rows: int) -> dict[str, int]:
    """Return the bytes of what so many rows of a DiT head's modulations take, by the names of their maker's outputs."""
    dtypes, shapes = {each.name: np.dtype(each.dtype) for each in maker.outputs}, _shapes(maker)
    return {name: rows * math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}


def _shapes(maker: ComponentSpec) -> dict[str, tuple[int, ...]]:
    """Return the shapes of its outputs for one row."""
    return {each.name: tuple(int(size) for size in each.shape[1:]) for each in maker.outputs}


@dataclass(frozen=True)
class Lane:
    """A device's queue with the engines, buffers and recorded graphs that use it.

    widths: of the condition that each phase's transformer hands to its head.
    held: what held modulations are kept in, by phase; filled by the first request that holds them.
    """

    device: ResidentDevice
    engines: Mapping[str, ResidentEngine]
    buffers: Buffers
    replays: Replays
    model: ModelInfo
    widths: Mapping[Phase, int]
    held: dict[Phase, HeldBuffers]


@dataclass(frozen=True)
class Work:
    """A request that runs on a lane: B = `batch` images and their noise.

    chains: those that lie on the device now, by phase.
    """

    lane: Lane
    request: Request
    noise: NoiseSource
    chains: dict[Phase, AnyChain]

    @property
    def batch(self) -> int:
        """B."""
        return len(self.request.labels)

    def held(self, phase: PhaseInfo) -> HeldBuffers | None:
        """The parts of a phase's head where the request holds its modulations."""
        return self.lane.held[phase.name] if self.request.sampling.modulation_interval > 1 and phase.held else None

    def noisy(self, phase: Phase) -> bool:
        """True where the steps of a phase's chain add noise; a solver's add none, and are launches of another kind."""
        return self.request.sampling.solver(phase) == "ddpm"


def condition_width(head: ComponentSpec) -> int:
    """Return the width of the condition that a head takes."""
    return next(int(tensor.shape[-1]) for tensor in head.inputs if tensor.name == "condition")
