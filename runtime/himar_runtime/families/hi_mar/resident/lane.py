"""What belongs to one lane, and what belongs to one request on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from himar_kernels.families.hi_mar import AnyChain, Phase
from himar_kernels.families.hi_mar.phases import ModelInfo
from himar_runtime.bundle.schema import ComponentSpec
from himar_runtime.queue.device import ResidentDevice, ResidentEngine
from himar_runtime.queue.replays import Replays

from ..loop import Request
from .buffers import Buffers
from .noise import NoiseSource


@dataclass(frozen=True)
class Lane:
    """A device's queue with the engines, buffers and recorded graphs that use it.

    widths: of the condition that each phase's transformer hands to its head.
    """

    device: ResidentDevice
    engines: Mapping[str, ResidentEngine]
    buffers: Buffers
    replays: Replays
    model: ModelInfo
    widths: Mapping[Phase, int]


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

    def noisy(self, phase: Phase) -> bool:
        """True where the steps of a phase's chain add noise; a solver's add none, and are launches of another kind."""
        return self.request.sampling.solver(phase) == "ddpm"


def condition_width(head: ComponentSpec) -> int:
    """Return the width of the condition that a head takes."""
    return next(int(tensor.shape[-1]) for tensor in head.inputs if tensor.name == "condition")
