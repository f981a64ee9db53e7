"""Runs the engines' side: a bundle's networks, and a wrapper that times each of their calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from himar_runtime import ComponentSpec, Networks
from himar_runtime.engines.engine import DeviceArray, Engine, Tensor
from himar_runtime.queue.device import DeviceTensor

from .time_breakdown import Clock


class TimedEngine:
    """An engine, or a resident one, whose calls a clock adds up; uploading its inputs is part of them."""

    def __init__(self, engine: Any, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    @property
    def spec(self) -> ComponentSpec:
        """See Engine.spec."""
        return self._engine.spec

    @property
    def recordable(self) -> str | None:
        """See ResidentEngine.recordable: a recorded graph could not be timed call by call."""
        return "each call is timed"

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """See Engine.bind."""
        with self._clock.of(self.spec.name, counts=False):
            self._engine.bind(inputs)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        with self._clock.of(self.spec.name):
            return self._engine.run(inputs)

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> Mapping[str, DeviceArray]:
        """See Engine.run_on_device."""
        with self._clock.of(self.spec.name):
            return self._engine.run_on_device(inputs)

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """See ResidentEngine.enqueue; what was queued before is waited for too, and is not in the time."""
        with self._clock.of(self.spec.name):
            self._engine.enqueue(tensors)

    def finish(self) -> None:
        """See ResidentEngine.finish."""
        self._engine.finish()

    def clone(self, lane: Any = None) -> Engine:
        """See Engine.clone; the clone is not timed."""
        return self._engine.clone(lane)


def timed(networks: Networks, clock: Clock) -> Networks:
    """Return the same engines on the same lane, their calls added up by a clock."""
    return Networks({name: TimedEngine(engine, clock) for name, engine in networks.engines.items()}, networks.lane)


def wait_for_lane(networks: Networks) -> Callable[[], None]:
    """Return a function that returns when the engines' lane has nothing to do; without a lane no run is queued."""
    return (lambda: None) if networks.lane is None else networks.lane.synchronize
