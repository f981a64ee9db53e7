"""Runs one component with PyTorch behind the runtime's interface of an engine, so that its loop takes it as any other.

Tensors in device memory, the loop's buffers and other engines' outputs, are taken where they lie, and the run is queued
on the lane's stream: nothing passes through the host.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import EngineError
from himar_runtime import ComponentSpec, TensorSpec
from himar_runtime.engines.engine import DeviceArray, first_line, resolve_axes
from himar_runtime.engines.engine import Tensor as AnyTensor
from himar_runtime.queue.device import DeviceTensor

if TYPE_CHECKING:
    from himar_runtime.queue.cuda.device import CudaDevice

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Maps a component's inputs to its outputs, both by the contract's names, on the engine's device."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int64": torch.int64}


@dataclass
class Calls:
    """How often an engine and its clones ran."""

    count: int = 0


@dataclass(frozen=True)
class TorchArray:
    """An output of an eager component on its device; see `himar_runtime.engines.engine.DeviceArray`."""

    value: Tensor
    engine: EagerEngine

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes."""
        return tuple(self.value.shape)

    def numpy(self) -> NDArray[Any]:
        """Return it on the host, float32 for any float; waits for the lane."""
        with self.engine.queued():
            value = self.value.float() if self.value.is_floating_point() else self.value
            found: NDArray[Any] = value.cpu().numpy()
        return found


class EagerEngine:
    """One component in PyTorch: see `Engine` and `himar_runtime.queue.device.ResidentEngine` for the contracts.

    Attributes:
        calls: runs so far, clones' included.
    """

    def __init__(
        self,
        spec: ComponentSpec,
        run: Run,
        device: torch.device,
        lane: CudaDevice | None = None,
        calls: Calls | None = None,
    ) -> None:
        """lane: the GPU lane whose stream runs are queued on; None on the CPU, and where each run is waited for."""
        self._spec, self._run, self._device, self._lane = spec, run, device, lane
        self._specs = {tensor.name: tensor for tensor in spec.inputs}
        self._inputs: dict[str, Tensor] = {}
        self._checked: dict[str, tuple[int, ...]] = {}
        self._views: dict[tuple[str, int, tuple[int, ...]], Tensor] = {}
        self._calls = calls or Calls()

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        return self._spec

    @property
    def calls(self) -> int:
        """See the class."""
        return self._calls.count

    @property
    def recordable(self) -> str | None:
        """See ResidentEngine.recordable: PyTorch allocates as it runs, so every run is queued anew."""
        return f"PyTorch runs {self._spec.name}"

    def bind(self, inputs: Mapping[str, AnyTensor]) -> None:
        """See Engine.bind."""
        with self.queued():
            for name, tensor in inputs.items():
                if name not in self._specs:
                    raise EngineError(f"{self._spec.name} has no input {name!r}; it has {', '.join(self._specs)}.")
                self._inputs[name] = self._taken(self._specs[name], tensor)

    def run(self, inputs: Mapping[str, AnyTensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        return {name: array.numpy() for name, array in self.run_on_device(inputs).items()}

    def run_on_device(self, inputs: Mapping[str, AnyTensor]) -> Mapping[str, DeviceArray]:
        """See Engine.run_on_device."""
        self.bind(inputs)
        shapes = {name: tuple(tensor.shape) for name, tensor in self._inputs.items()}
        if shapes != self._checked:
            resolve_axes(self._spec, shapes)
            self._checked = shapes
        with self.queued():
            made = self._made(self._inputs)
            outputs = {each.name: made[each.name].to(_DTYPES[each.dtype]) for each in self._spec.outputs}
        if self._device.type == "cuda" and self._lane is None:
            torch.cuda.synchronize(self._device)  # other engines run on streams of their own
        return {name: TorchArray(value, self) for name, value in outputs.items()}

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """See ResidentEngine.enqueue. Where a network asks PyTorch for a number, the host waits for the stream."""
        named = {each.name: each for each in (*self._spec.inputs, *self._spec.outputs)}
        if tensors.keys() != named.keys():
            wrong = ", ".join(sorted(tensors.keys() ^ named.keys()))
            raise EngineError(f"{self._spec.name} needs {', '.join(named)} in place; {wrong} differ.")
        with self.queued():
            placed = {name: self._placed(named[name], place) for name, place in tensors.items()}
            made = self._made({name: placed[name] for name in self._specs})
            for each in self._spec.outputs:
                placed[each.name].copy_(made[each.name])

    def finish(self) -> None:
        """See ResidentEngine.finish: nothing was compiled."""

    def clone(self, lane: CudaDevice | None = None) -> EagerEngine:
        """See Engine.clone."""
        return EagerEngine(self._spec, self._run, self._device, lane or self._lane, self._calls)

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Let what PyTorch does inside follow what is queued on the lane's stream, and hold the stream meanwhile."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self._lane is not None:
                stream = torch.cuda.ExternalStream(self._lane.stream, device=self._device)
                stack.enter_context(self._lane.queue)
                stack.enter_context(torch.cuda.device(self._device))
                stack.enter_context(torch.cuda.stream(stream))
            yield

    def _made(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self._calls.count += 1
        try:
            return self._run(inputs)
        except Exception as error:
            raise EngineError(
                f"{self._spec.name} failed on {self._device} in PyTorch: {type(error).__name__}: {first_line(error)}"
            ) from error

    def _taken(self, spec: TensorSpec, tensor: AnyTensor) -> Tensor:
        """Return an input on the device; a copy of an array on the host, which its owner may change afterwards."""
        dtype = _DTYPES[spec.dtype]
        if isinstance(tensor, TorchArray) and tensor.value.device == self._device:
            return tensor.value.to(dtype)
        place = address_of(tensor)
        if place is not None and self._device.type == "cuda":
            return tensor_at(place, self._device, getattr(tensor, "dtype", spec.dtype)).to(dtype)
        host = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        return torch.from_numpy(np.require(host, requirements=("C", "W"))).to(self._device, dtype, copy=True)

    def _placed(self, spec: TensorSpec, place: DeviceTensor) -> Tensor:
        key = (spec.name, place.address, place.shape)
        if key not in self._views:
            self._views[key] = tensor_at(place, self._device, spec.dtype)
        return self._views[key]


@dataclass(frozen=True)
class _CudaMemory:
    """Device memory as libraries hand it to each other (numba's CUDA array interface, version 3)."""

    place: DeviceTensor
    dtype: str

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # The stream is left out: the lane's stream is PyTorch's current one, so nothing has to wait.
        kind = np.dtype(self.dtype).str
        return {"shape": self.place.shape, "typestr": kind, "data": (self.place.address, False), "version": 3}


def tensor_at(place: DeviceTensor, device: torch.device, dtype: str) -> Tensor:
    """Return the tensor that lies at an address of the device, without a copy; its owner keeps the memory."""
    if not math.prod(place.shape):
        return torch.empty(place.shape, dtype=_DTYPES[dtype], device=device)
    if device.type == "cuda":
        return torch.as_tensor(_CudaMemory(place, dtype), device=device)
    size = math.prod(place.shape) * np.dtype(dtype).itemsize
    memory = (ctypes.c_char * size).from_address(place.address)
    return torch.frombuffer(memory, dtype=_DTYPES[dtype]).reshape(place.shape)


def address_of(tensor: AnyTensor) -> DeviceTensor | None:
    """Return where another engine's output lies on a GPU; None for one on the host."""
    from himar_runtime.engines.ort.engine import OrtArray

    if isinstance(tensor, OrtArray):
        return None if tensor.host is not None else DeviceTensor(int(tensor.value.data_ptr()), tensor.shape)
    place = getattr(tensor, "place", None)  # of TensorRT's engines, whose library may be absent
    return place if isinstance(place, DeviceTensor) else None
