"""Makes execution contexts of one engine on one lane: one for every set of tensors at their addresses.

A context from which a graph was recorded must not be changed afterwards, so a context keeps its shapes and addresses
for good. Contexts own no activation memory: all engines of a lane run one after another and share the lane's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from himar_kernels import EngineError
from himar_runtime.bundle.schema import ComponentSpec
from himar_runtime.queue.cuda.device import CudaDevice
from himar_runtime.queue.device import DeviceTensor

from .jit import JitCache
from .library import collected_errors, first_error

MOST_CONTEXTS = 512

Places = Mapping[str, DeviceTensor]


@dataclass(frozen=True)
class Loaded:
    """An engine that all lanes share: TensorRT's objects, and a lock for making contexts from it.

    runtime: must live as long as the engine. jit: None where nothing is compiled at run time.
    """

    library: ModuleType
    runtime: Any
    engine: Any
    spec: ComponentSpec
    jit: JitCache | None
    lock: threading.Lock


class Contexts:
    """The contexts of one lane."""

    def __init__(self, loaded: Loaded, lane: CudaDevice) -> None:
        # First, so that the contexts go before what they were made from.
        self._contexts: dict[tuple[object, ...], Any] = {}
        self._output_shapes: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._library, self._engine, self._spec = loaded.library, loaded.engine, loaded.spec
        self._jit, self._lock, self._lane = loaded.jit, loaded.lock, lane
        self._size = int(loaded.engine.device_memory_size_v2)
        lane.reserve(self._size)

    def enqueue(self, places: Places) -> None:
        """Queue a run on the lane's stream; EngineError when TensorRT refuses, with its reason."""
        key = tuple((name, place.address, place.shape) for name, place in sorted(places.items()))
        with collected_errors(self._library) as errors:
            context = self._contexts.get(key)
            if context is None:
                if len(self._contexts) >= MOST_CONTEXTS:
                    self._forget()
                context = self._contexts[key] = self._make(places, errors)
            with self._lane.queue:
                queued = context.execute_async_v3(self._lane.stream)
            if not queued:
                raise EngineError(f"{self._spec.name} failed on {self._lane.device}: {first_error(errors)}")

    @property
    def recordable(self) -> str | None:
        """None while every context of the lane can be recorded in a graph, else the reason why not."""
        for context in self._contexts.values():
            # TensorRT-RTX tells; the others record whatever they run.
            if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(self._lane.stream):
                return f"TensorRT says that the engine of {self._spec.name} cannot be recorded"
        return None

    def output_shape(self, name: str, inputs: Places) -> tuple[int, ...]:
        """Return the shape of an output that only the engine knows, for inputs at their places."""
        key = (name, *((each, place.shape) for each, place in sorted(inputs.items())))
        if key not in self._output_shapes:
            with collected_errors(self._library) as errors:
                context = self._create(errors)
                self._set_shapes(context, inputs, errors)
                self._output_shapes[key] = tuple(int(size) for size in context.get_tensor_shape(name))
        return self._output_shapes[key]

    def finish(self) -> None:
        """Keep what was compiled for this GPU since the last time, once the lane is idle."""
        if self._jit is None:
            return
        with self._lock:
            self._jit.keep()

    def _forget(self) -> None:
        """Give all contexts up, once nothing queued uses them; the lane's graphs then are of the past."""
        self._lane.synchronize()
        self._lane.epoch += 1
        self._contexts.clear()

    def _make(self, places: Places, errors: list[str]) -> Any:
        context = self._create(errors)
        self._set_shapes(context, places, errors)
        for name, place in places.items():
            if not context.set_tensor_address(name, place.address):
                raise EngineError(f"{self._spec.name} does not take {name} at its address: {first_error(errors)}")
        if self._size:
            context.set_device_memory(self._lane.scratch(), self._size)
        return context

    def _create(self, errors: list[str]) -> Any:
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        with self._lock:
            if self._jit is not None:
                self._jit.used = True
            context = self._engine.create_execution_context(self._jit.config if self._jit else strategy)
        if context is None:
            raise EngineError(f"{self._spec.name} cannot get an execution context: {first_error(errors)}")
        return context

    def _set_shapes(self, context: Any, places: Places, errors: list[str]) -> None:
        for tensor in self._spec.inputs:
            shape = places[tensor.name].shape
            if not context.set_input_shape(tensor.name, shape):
                raise EngineError(
                    f"{self._spec.name} does not take {tensor.name} with shape {shape} ({first_error(errors)}); "
                    f"it was built for {_profile(self._spec)}: use fewer images at once."
                )


def _profile(spec: ComponentSpec) -> str:
    return ", ".join(f"{axis} {low} to {high}" for axis, (low, _, high) in spec.profile.items())
