"""Engines of TensorRT, its lean runtime and TensorRT-RTX: on tensors in device memory, or on the host's arrays."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError

from .cuda.device import CudaDevice
from .cuda.driver import compute_capability
from .engine import DeviceArray, Tensor, resolve_axes, resolved_shape
from .resident.device import Placed
from .specs import BackendInfo, ComponentSpec, TensorSpec
from .tensorrt_contexts import Contexts, Loaded
from .tensorrt_library import load_library
from .tensorrt_load import check_fit, load_engine_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CudaArray:
    """An output in an engine's own buffer: valid until its next run."""

    place: Placed
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
        self._inputs: dict[str, Placed] = {}

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

    def enqueue(self, tensors: Mapping[str, Placed]) -> None:
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

    def _placed_input(self, spec: TensorSpec, tensor: Tensor) -> Placed:
        if isinstance(tensor, CudaArray) and tensor.lane is self._lane and tensor.dtype == spec.dtype:
            return tensor.place
        host = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        array = np.ascontiguousarray(host, spec.dtype)
        place = self._place(spec, array.shape)
        self._lane.upload(place.address, array)
        return place

    def _place(self, spec: TensorSpec, shape: tuple[int, ...]) -> Placed:
        """Return the engine's own buffer for a tensor, made anew only when a larger one is needed."""
        size = max(1, int(np.prod(shape))) * np.dtype(spec.dtype).itemsize
        address, room = self._buffers.get(spec.name, (0, 0))
        if size > room:
            largest = resolved_shape(spec, {axis: most for axis, (_, _, most) in self.spec.profile.items()})
            if largest is not None:
                size = max(size, int(np.prod(largest)) * np.dtype(spec.dtype).itemsize)
            address = self._lane.allocate(size)
            self._buffers[spec.name] = (address, size)
        return Placed(address, shape)
