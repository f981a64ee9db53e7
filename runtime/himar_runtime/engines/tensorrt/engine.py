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
from himar_runtime.engines.engine import DeviceArray, Tensor, resolve_axes, resolved_shape
from himar_runtime.engines.tensorrt.contexts import Contexts, Loaded
from himar_runtime.engines.tensorrt.jit import JitCache
from himar_runtime.engines.tensorrt.library import (
    collected_errors,
    first_error,
    library_logger,
    library_version,
    load_library,
)
from himar_runtime.queue.cuda.device import CudaDevice
from himar_runtime.queue.cuda.driver import compute_capability
from himar_runtime.queue.device import DeviceTensor

log = logging.getLogger(__name__)


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
