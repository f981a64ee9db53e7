"""What belongs to one lane, and what belongs to one request on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from himar_kernels import Chain, Step, launches

from ..loop import Request
from ..manifest import ModelInfo
from .buffers import Buffers
from .device import Placed, ResidentDevice, ResidentEngine
from .noise import NoiseSource
from .replays import Replays


@dataclass(frozen=True)
class Lane:
    """A device's queue with the engines, buffers and recorded graphs that use it."""

    device: ResidentDevice
    engines: Mapping[str, ResidentEngine]
    buffers: Buffers
    replays: Replays
    model: ModelInfo


@dataclass(frozen=True)
class Work:
    """A request that runs on a lane: B = `batch` images, their noise, and the chains of both heads."""

    lane: Lane
    request: Request
    noise: NoiseSource
    low_chain: Chain
    high_chain: Chain

    @property
    def batch(self) -> int:
        """B."""
        return len(self.request.labels)

    def index_inputs(self, step: Step, ranks: int, always: int, n: int) -> dict[str, Placed]:
        """Queue the index lists of a step and return them as a transformer's inputs, with the class rows.

        ranks: address of uint32 (B, n). always: positions before the n ordered ones that every step knows.
        """
        buffers, model, halves = self.lane.buffers, self.lane.model, halves_of(step)
        positions = model.low_positions + model.high_positions
        self.lane.device.launch(
            launches.index_lists(
                visible=buffers.visible, sources=buffers.sources, revealed=buffers.revealed, ranks=ranks,
                state=buffers.state, batch=self.batch, halves=halves, context=model.buffer, always=always, n=n,
                positions=positions,
            )
        )  # fmt: skip
        rows = halves * self.batch
        return {
            "class_row": buffers.placed("class_row", rows),
            "visible": buffers.placed("visible", rows, model.buffer + always + n - step.masked),
            "sources": buffers.placed("sources", rows, model.buffer + positions),
        }


def halves_of(step: Step) -> int:
    """Return 2 under guidance, where rows are [conditional; unconditional], else 1."""
    return 1 if step.guidance == 1 else 2


def condition_width(engine: ResidentEngine) -> int:
    """Return the width of the condition that a head takes."""
    return next(int(tensor.shape[-1]) for tensor in engine.spec.inputs if tensor.name == "condition")
