"""What belongs to one lane, and what belongs to one request on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from himar_kernels import AnyChain, Chain, Phase, Step

from ..loop import Request
from ..manifest import ModelInfo
from .buffers import Buffers
from .device import ResidentDevice, ResidentEngine
from .noise import NoiseSource
from .replays import Replays


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
    """A request that runs on a lane: B = `batch` images, their noise, and the chain of each phase's head."""

    lane: Lane
    request: Request
    noise: NoiseSource
    chains: Mapping[Phase, AnyChain]

    @property
    def batch(self) -> int:
        """B."""
        return len(self.request.labels)

    def noisy(self, phase: Phase) -> bool:
        """True where the steps of a phase's chain add noise; a solver's add none, and are launches of another kind."""
        return isinstance(self.chains[phase], Chain)


def halves_of(step: Step) -> int:
    """Return 2 under guidance, where rows are [conditional; unconditional], else 1."""
    return 1 if step.guidance == 1 else 2


def condition_width(engine: ResidentEngine) -> int:
    """Return the width of the condition that a head takes."""
    return next(int(tensor.shape[-1]) for tensor in engine.spec.inputs if tensor.name == "condition")
