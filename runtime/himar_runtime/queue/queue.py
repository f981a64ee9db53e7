"""What a family's loop queues: kernels, runs of engines, and segments of both that are recorded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from himar_kernels import Launch

from .device import DeviceTensor, ResidentDevice, ResidentEngine
from .host import HostEngine
from .replays import Replays


@dataclass(frozen=True)
class Queue:
    """A device's queue with the engines, by component, and the recorded graphs that use it."""

    device: ResidentDevice
    engines: Mapping[str, ResidentEngine]
    replays: Replays = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "replays", Replays(self.device, self.engines.values()))

    def launch(self, kernel: Callable[..., Launch], values: Mapping[str, Any]) -> None:
        """Queue a kernel; `values` has its arguments by name, and may have more."""
        self.device.launch(kernel(**{name: values[name] for name in _parameters(kernel)}))

    def run(self, component: str, tensors: Mapping[str, DeviceTensor]) -> None:
        """Queue a run of an engine with every input and output at its place."""
        self.engines[component].enqueue(tensors)

    def hold(self, component: str, tensors: Mapping[str, DeviceTensor]) -> None:
        """Say that these inputs stay as they are now in the runs that follow: an engine that copies them does so once.

        To be said again before the runs of another segment.
        """
        engine = self.engines[component]
        if isinstance(engine, HostEngine):
            engine.hold(tensors)

    def segment(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        """Queue what `enqueue` queues, or its recording: see Replays.run."""
        self.replays.run(key, enqueue)


@functools.cache
def _parameters(kernel: Callable[..., Launch]) -> tuple[str, ...]:
    return tuple(inspect.signature(kernel).parameters)
