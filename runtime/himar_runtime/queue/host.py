"""A queue in host memory: every call has run when it returns, and a launch runs its NumPy definition."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from himar_kernels import Launch
from himar_kernels.launch import Definition, Work

from ..bundle.manifest import ComponentSpec
from ..engines.engine import Engine
from .device import DeviceTensor

_ALIGNMENT = 256
_MOST_VIEWS = 4096


class HostDevice:
    """See ResidentDevice. A recording keeps calls with their arrays looked up, so a replay only computes."""

    runs_at_once = True
    epoch = 0

    def __init__(self, definitions: Mapping[str, Definition]) -> None:
        """definitions: of every launch that the loop queues, by the launch's name."""
        self._definitions = definitions
        self._blocks: list[tuple[int, NDArray[np.uint8]]] = []
        self._views: dict[Any, NDArray[Any]] = {}
        self._recording: list[Work] | None = None

    def make_current(self) -> None:
        """See ResidentDevice.make_current."""

    def allocate(self, size: int) -> int:
        """See ResidentDevice.allocate."""
        block = np.empty(size + _ALIGNMENT, np.uint8)
        first = -block.ctypes.data % _ALIGNMENT
        self._blocks.append((block.ctypes.data + first, block[first:]))
        return self._blocks[-1][0]

    def view(self, address: int, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return the array that lies at an address of this device."""
        key = (address, shape, dtype)
        if key not in self._views:
            if len(self._views) == _MOST_VIEWS:
                self._views.clear()
            self._views[key] = self._new_view(*key)
        return self._views[key]

    def _new_view(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        for start, block in self._blocks:
            if start <= address < start + len(block):
                return np.ndarray(shape, dtype, block, address - start)
        raise ValueError(f"no buffer of this device lies at {address:#x}")

    def queue(self, work: Work) -> None:
        """Do the work now, or keep it while recording."""
        if self._recording is None:
            work()
        else:
            self._recording.append(work)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """See ResidentDevice.upload."""
        self.view(address, array.shape, array.dtype)[...] = array

    def copy(self, target: int, source: int, size: int) -> None:
        """See ResidentDevice.copy."""
        to, from_ = self.view(target, (size,), np.uint8), self.view(source, (size,), np.uint8)
        self.queue(lambda: np.copyto(to, from_))

    def clear(self, address: int, size: int) -> None:
        """See ResidentDevice.clear."""
        cleared = self.view(address, (size,), np.uint8)
        self.queue(lambda: cleared.fill(0))

    def download(self, address: int, array: NDArray[Any]) -> None:
        """See ResidentDevice.download."""
        array[...] = self.view(address, array.shape, array.dtype)

    def launch(self, launch: Launch) -> None:
        """See ResidentDevice.launch."""
        definition = self._definitions[launch.name]
        self.queue(definition(self.view, *(argument.value for argument in launch.arguments)))

    def synchronize(self) -> None:
        """See ResidentDevice.synchronize."""

    def mark(self) -> Callable[[], None]:
        """See ResidentDevice.mark."""
        return lambda: None

    def record(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """See ResidentDevice.record."""
        with self._keeping() as kept:
            enqueue()

        def replay() -> None:
            for work in kept:
                work()

        return replay

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[list[Work]]:
        kept = self._recording = []
        try:
            yield kept
        finally:
            self._recording = None


class HostEngine:
    """An engine whose tensors lie on a HostDevice: see ResidentEngine. It may run anywhere; its tensors are copied."""

    recordable = None

    def __init__(self, engine: Engine, device: HostDevice) -> None:
        self._engine, self._device = engine, device
        self._dtypes = {
            tensor.name: np.int64 if tensor.dtype.startswith("int") else np.float32
            for tensor in (*engine.spec.inputs, *engine.spec.outputs)
        }
        self._held: frozenset[str] = frozenset()

    @property
    def spec(self) -> ComponentSpec:
        """See ResidentEngine.spec."""
        return self._engine.spec

    def hold(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """Copy these inputs now, and no more until they are held again."""
        self._engine.bind(self._arrays(tensors))
        self._held = frozenset(tensors)

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """See ResidentEngine.enqueue."""
        arrays = self._arrays(tensors)
        outputs = [(tensor.name, arrays.pop(tensor.name)) for tensor in self.spec.outputs]
        inputs = {name: array for name, array in arrays.items() if name not in self._held}

        def work() -> None:
            found = self._engine.run_on_device(inputs)
            for name, array in outputs:
                array[...] = found[name].numpy()

        self._device.queue(work)

    def finish(self) -> None:
        """See ResidentEngine.finish."""

    def _arrays(self, tensors: Mapping[str, DeviceTensor]) -> dict[str, NDArray[Any]]:
        return {
            name: self._device.view(place.address, place.shape, self._dtypes[name]) for name, place in tensors.items()
        }
