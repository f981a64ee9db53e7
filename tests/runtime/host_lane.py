"""The resident loop's device in host memory: the kernels' host build, and ONNX Runtime's engines on host addresses.

Only CUDA itself is missing: the loop, its launches, buffers, graph keys and kernels are those that run on a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from himar_kernels import Launch
from himar_runtime import ComponentSpec, Networks
from himar_runtime.queue.device import DeviceTensor


class HostLane:
    """A queue that runs at once. `trace` notes every call in order; recording keeps calls instead of running them."""

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels
        self._memory = kernels.device()
        self._recording: list[Callable[[], None]] | None = None
        self.trace: list[str] = []
        self.epoch = 0

    def _do(self, name: str, call: Callable[[], None]) -> None:
        if self._recording is not None:
            self._recording.append(call)
        else:
            self.trace.append(name)
            call()

    def another(self) -> HostLane:
        return HostLane(self._kernels)

    def make_current(self) -> None:
        pass

    def allocate(self, size: int) -> int:
        return self._memory.allocate(size)

    def upload(self, address: int, array: NDArray) -> None:
        assert self._recording is None, "a copy from the host cannot be recorded"
        self.trace.append("upload")
        self._memory.upload(address, array)

    def copy(self, target: int, source: int, size: int) -> None:
        self._do("copy", lambda: ctypes.memmove(target, source, size))

    def clear(self, address: int, size: int) -> None:
        self._do("clear", lambda: ctypes.memset(address, 0, size))

    def download(self, address: int, array: NDArray) -> None:
        self.trace.append("download")
        self._memory.synchronize()
        self._memory.download(address, array)

    def launch(self, launch: Launch) -> None:
        self._do(launch.name, lambda: self._memory.launch(launch))

    def queue(self, name: str, call: Callable[[], None]) -> None:
        self._do(name, call)

    def synchronize(self) -> None:
        self.trace.append("synchronize")

    def mark(self) -> Callable[[], None]:
        self.trace.append("mark")
        return lambda: self.trace.append("wait")

    def record(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        self._recording = calls = []
        try:
            enqueue()
        finally:
            self._recording = None

        def replay() -> None:
            self.trace.append("replay")
            for call in calls:
                call()

        return replay


class QueuedEngine:
    """An engine of ONNX Runtime whose runs go through a lane's queue, so that they can be recorded."""

    def __init__(self, engine: Any, lane: HostLane, recordable: str | None) -> None:
        self._engine, self._lane, self.recordable = engine, lane, recordable
        self.finished = 0

    @property
    def spec(self) -> ComponentSpec:
        return self._engine.spec

    def bind(self, inputs: Any) -> None:
        self._engine.bind(inputs)

    def run(self, inputs: Any) -> Any:
        return self._engine.run(inputs)

    def run_on_device(self, inputs: Any) -> Any:
        return self._engine.run_on_device(inputs)

    def clone(self, lane: Any = None) -> QueuedEngine:
        return QueuedEngine(self._engine.clone(), lane or self._lane, self.recordable)

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        tensors = dict(tensors)
        self._lane.queue(self.spec.name, lambda: self._engine.enqueue(tensors))

    def finish(self) -> None:
        self.finished += 1


def on_host_lane(networks: Networks, lane: HostLane, recordable: str | None = None) -> Networks:
    """Return the networks with their runs on a host lane; `recordable` is why they refuse to be recorded."""
    engines = {name: QueuedEngine(engine, lane, recordable) for name, engine in networks.engines.items()}
    return Networks(engines, lane)  # type: ignore[arg-type]
