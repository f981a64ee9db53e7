"""Loads and runs engines of TensorRT, its lean runtime and TensorRT-RTX, on device memory or on the host's arrays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError
from himar_runtime.bundle.schema import BackendInfo, ComponentSpec, TensorSpec
from himar_runtime.queue.cuda.device import CudaDevice
from himar_runtime.queue.cuda.driver import compute_capability
from himar_runtime.queue.device import DeviceTensor

from ..engine import DeviceArray, Tensor, resolve_axes, resolved_shape
from .jit import JitCache
from .library import collected_errors, first_error, library_logger, library_version, load_library

log = logging.getLogger(__name__)

MOST_CONTEXTS = 512

Places = Mapping[str, DeviceTensor]


@dataclass(frozen=True)
class CudaArray:
    """An output in an engine's own buffer: valid until its next run."""

    place: DeviceTensor
    dtype: str
    lane: CudaDevice

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes."""
        return self.place.shape

    def numpy(self) -> NDArray[Any]:
        """Return a copy on the host, float32 for any float; waits for the lane."""
        array = np.empty(self.place.shape, self.dtype)
        self.lane.make_current()
        self.lane.download(self.place.address, array)
        return array.astype(np.float32, copy=False) if self.dtype.startswith("float") else array


class TensorRTEngine:
    """One component as a TensorRT engine on one lane: see `Engine` and `ResidentEngine` for the methods' contracts.

    `enqueue` takes tensors wherever they lie. The other methods copy between the host and buffers of the engine's own,
    which are made when they are first used, for the largest sizes of the profile.
    """

    def __init__(self, loaded: Loaded, lane: CudaDevice) -> None:
        self._loaded = loaded
        self._lane = lane
        self._contexts = Contexts(loaded, lane)
        self._buffers: dict[str, tuple[int, int]] = {}
        self._inputs: dict[str, DeviceTensor] = {}

    @classmethod
    def load(cls, path: Path, spec: ComponentSpec, built: BackendInfo, lane: CudaDevice) -> TensorRTEngine:
        """Load an engine file that `built` describes.

        Raises EngineError: no library, another version of it, another GPU, a damaged file.
        """
        library = load_library(spec.backend)
        capability = compute_capability(lane.device)
        check_fit(spec.name, built, library, capability)
        lane.make_current()
        loaded = load_engine_file(path, spec, built, library, capability)
        log.debug("loaded %s on %s with %s", spec.name, lane.device, library.__name__)
        return cls(loaded, lane)

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        return self._loaded.spec

    @property
    def recordable(self) -> str | None:
        """See ResidentEngine.recordable."""
        return self._contexts.recordable

    @property
    def scratch_bytes(self) -> int:
        """How much of its lane's shared memory a run needs, at any sizes of its profile."""
        return self._contexts.scratch_bytes

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """See ResidentEngine.enqueue."""
        self._contexts.enqueue(tensors)

    def finish(self) -> None:
        """See ResidentEngine.finish."""
        self._contexts.finish()

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """See Engine.bind."""
        self._lane.make_current()
        specs = {tensor.name: tensor for tensor in self.spec.inputs}
        for name, tensor in inputs.items():
            if name not in specs:
                raise EngineError(f"{self.spec.name} has no input {name!r}; it has {', '.join(specs)}.")
            self._inputs[name] = self._placed_input(specs[name], tensor)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        return {name: array.numpy() for name, array in self.run_on_device(inputs).items()}

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> Mapping[str, DeviceArray]:
        """See Engine.run_on_device."""
        self.bind(inputs)
        axes = resolve_axes(self.spec, {name: place.shape for name, place in self._inputs.items()})
        outputs = {}
        for tensor in self.spec.outputs:
            shape = resolved_shape(tensor, axes) or self._contexts.output_shape(tensor.name, self._inputs)
            outputs[tensor.name] = CudaArray(self._place(tensor, shape), tensor.dtype, self._lane)
        self._contexts.enqueue({**self._inputs, **{name: array.place for name, array in outputs.items()}})
        return outputs

    def clone(self, lane: CudaDevice | None = None) -> TensorRTEngine:
        """See Engine.clone."""
        return TensorRTEngine(self._loaded, lane or self._lane)

    def _placed_input(self, spec: TensorSpec, tensor: Tensor) -> DeviceTensor:
        if isinstance(tensor, CudaArray) and tensor.lane is self._lane and tensor.dtype == spec.dtype:
            return tensor.place
        host = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        array = np.ascontiguousarray(host, spec.dtype)
        place = self._place(spec, array.shape)
        self._lane.upload(place.address, array)
        return place

    def _place(self, spec: TensorSpec, shape: tuple[int, ...]) -> DeviceTensor:
        """Return the engine's own buffer for a tensor, made anew only when a larger one is needed."""
        size = max(1, int(np.prod(shape))) * np.dtype(spec.dtype).itemsize
        address, room = self._buffers.get(spec.name, (0, 0))
        if size > room:
            largest = resolved_shape(spec, {axis: high for axis, (_, _, high) in self.spec.profile.items()})
            if largest is not None:
                size = max(size, int(np.prod(largest)) * np.dtype(spec.dtype).itemsize)
            address = self._lane.allocate(size)
            self._buffers[spec.name] = (address, size)
        return DeviceTensor(address, shape)


def check_fit(name: str, built: BackendInfo, library: ModuleType, capability: tuple[int, int]) -> None:
    """Raise EngineError unless engines `built` so run with this library on a GPU of this compute capability.

    name: of the component, for the message. A library of another version runs only version-compatible engines.
    """
    version = library_version(library)
    lean = library.__name__ == "tensorrt_lean"
    if not built.version_compatible and (lean or version != built.version):
        raise EngineError(
            f"the engine of {name} needs {built.name} {built.version}, which built it, but {library.__name__} "
            f"{version} is installed here; install that, or build the bundle again with this one (for any later one, "
            f"with --version-compatible)."
        )
    here = f"{capability[0]}.{capability[1]}"
    if built.compute_capability not in (None, here):
        _refuse(name, f"compute capability {built.compute_capability} alone", here)
    if built.compute_capabilities is not None and here not in built.compute_capabilities:
        _refuse(name, f"compute capabilities {', '.join(built.compute_capabilities)}", here)
    if built.least_compute_capability is not None and capability < _parsed(built.least_compute_capability):
        _refuse(name, f"compute capability {built.least_compute_capability} and later", here)


def load_engine_file(
    path: Path, spec: ComponentSpec, built: BackendInfo, library: ModuleType, capability: tuple[int, int]
) -> Loaded:
    """Return the engine in a file, for a GPU of this compute capability.

    Raises EngineError when TensorRT refuses the file, with its own reason, or when the file is of another component.
    """
    runtime = library.Runtime(library_logger(library))
    if built.version_compatible:
        # Such an engine carries host code, the runtime of the version that built it: load only bundles you trust.
        runtime.engine_host_code_allowed = True
    with collected_errors(library) as errors:
        content = path.read_bytes()
        engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(
            f"{path} does not load with {library.__name__} {library_version(library)}: {first_error(errors)}; "
            f"build the bundle again on this machine."
        )
    _check_tensors(path, spec, engine)
    jit = JitCache.of(library, engine, content, capability)
    return Loaded(library, runtime, engine, spec, jit, threading.Lock())


def _check_tensors(path: Path, spec: ComponentSpec, engine: Any) -> None:
    found = {engine.get_tensor_name(number) for number in range(engine.num_io_tensors)}
    wanted = {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
    if found != wanted:
        raise EngineError(
            f"{path} has the tensors {', '.join(sorted(found))}, but {spec.name} has {', '.join(sorted(wanted))}; "
            f"build the bundle again."
        )
    for tensor in (*spec.inputs, *spec.outputs):
        dtype = engine.get_tensor_dtype(tensor.name).name
        if dtype != _DTYPES[tensor.dtype]:
            raise EngineError(
                f"{tensor.name} in {path} is {dtype}, but the manifest says {tensor.dtype}; build the bundle again."
            )


_DTYPES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64"}


def _parsed(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor or 0)


def _refuse(name: str, built_for: str, here: str) -> None:
    raise EngineError(
        f"the engine of {name} was built for GPUs of {built_for}, but this one has {here}; build the bundle again on "
        f"this machine, or with the backend onnxruntime, whose engines run on any GPU."
    )


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
    """Execution contexts of one engine on one lane: one for every set of tensors at their addresses.

    A context from which a graph was recorded must not be changed afterwards, so a context keeps its shapes and
    addresses for good. Contexts own no activation memory: all engines of a lane run one after another and share the
    lane's, of which a run of this one needs `scratch_bytes`.
    """

    def __init__(self, loaded: Loaded, lane: CudaDevice) -> None:
        # First, so that the contexts go before what they were made from.
        self._contexts: dict[tuple[object, ...], Any] = {}
        self._output_shapes: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._library, self._engine, self._spec = loaded.library, loaded.engine, loaded.spec
        self._jit, self._lock, self._lane = loaded.jit, loaded.lock, lane
        self.scratch_bytes = int(loaded.engine.device_memory_size_v2)
        lane.reserve(self.scratch_bytes)

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
        if self.scratch_bytes:
            context.set_device_memory(self._lane.scratch(), self.scratch_bytes)
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
