"""Runs engines with ONNX Runtime, on the CPU or on a GPU, with inputs and outputs that stay on the device."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError
from himar_runtime.bundle.manifest import ComponentSpec
from himar_runtime.queue.device import DeviceTensor

from ..engine import Device, DeviceArray, Tensor, first_line, resolve_axes, resolved_shape
from .packed import Content
from .row_parallel import RowParts, Workers
from .session import UNRECORDED, create_session, onnxruntime, recorded_by, run_options

if TYPE_CHECKING:
    from himar_runtime.queue.cuda.device import CudaDevice

log = logging.getLogger(__name__)

MOST_BINDINGS = 256
MOST_GRAPHS = 1024
"""Of a session, which keeps them for good."""
RUNS_BEFORE = 2
"""Runs at a set of places before the one that is recorded: memory is planned in the first and taken in the second."""


@dataclass(frozen=True)
class OrtArray:
    """An OrtValue on the engine's device; `host` is its memory where the device is the CPU."""

    value: Any
    dtype: str
    device: Device
    shape: tuple[int, ...]
    host: NDArray[Any] | None = None

    def numpy(self) -> NDArray[Any]:
        """Return a copy on the host, float32 for any float."""
        array = self.value.numpy() if self.host is None else self.host
        kind = np.float32 if self.dtype.startswith("float") else array.dtype
        return array.astype(kind, copy=self.host is not None)


class OrtEngine:
    """An ONNX Runtime session with its own binding: see `Engine` for the methods' contract.

    Bound inputs and outputs keep their device buffers between runs while their shapes stay the same.
    """

    def __init__(
        self,
        session: Any,
        spec: ComponentSpec,
        device: Device,
        lane: CudaDevice | None = None,
        workers: Workers | None = None,
        numbers: GraphNumbers | None = None,
    ) -> None:
        """lane: whose stream the session works on; numbers: of the session's graphs, where other engines share it.

        workers: the threads that share out the rows of a session that has one thread itself.
        """
        self._session = session
        self._lock: AbstractContextManager[Any] = contextlib.nullcontext() if lane is None else lane.queue
        records = recorded_by(session)
        self._numbers = numbers or GraphNumbers(MOST_GRAPHS if records else 0)
        self._directly = run_options(UNRECORDED, waits=True) if records else None  # shapes may differ between runs
        self._placed = PlacedRuns(session, spec, device, self._lock, self._numbers, lane)
        self._spec = spec
        self._device = device
        self._binding = session.io_binding()
        self._dtypes = {tensor.name: tensor.dtype for tensor in spec.inputs}
        self._inputs: dict[str, OrtArray] = {}
        self._uploads: dict[str, OrtArray] = {}
        self._outputs: dict[str, OrtArray] = {}
        self._reshaped = self._rebound = True
        self._workers = workers
        self._parts = None if workers is None else RowParts(session, spec, workers)
        self._lane = lane  # last, so that it outlives the session, whose stream is the lane's

    @classmethod
    def load(
        cls,
        path: Path,
        spec: ComponentSpec,
        device: Device,
        threads: int | None,
        lane: CudaDevice | None = None,
        content: Content | None = None,
    ) -> OrtEngine:
        """Create the session.

        Args:
            threads: of the CPU that a call uses; None takes `default_threads`. Small networks share their rows out
                among them, large ones each operator.
            lane: the GPU lane on whose stream the session queues its work; None gives it streams of its own.
            content: what the graph of a bundle is made of, by which it is kept with packed weights where that is asked
                for (`packed`); None never keeps it.

        Raises EngineError: ONNX Runtime is absent or lacks CUDA, no such GPU, the model does not load.
        """
        session, workers = create_session(path, spec, device, threads, lane, content)
        log.debug("loaded %s on %s", spec.name, device)
        return cls(session, spec, device, lane=lane, workers=workers)

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        return self._spec

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """See Engine.bind."""
        for name, tensor in inputs.items():
            if name not in self._dtypes:
                raise EngineError(f"{self._spec.name} has no input {name!r}; it has {', '.join(self._dtypes)}.")
            array, before = self._on_device(name, tensor), self._inputs.get(name)
            if array is before:
                continue
            self._rebound = True
            self._reshaped |= before is None or array.shape != before.shape
            self._inputs[name] = array
            self._binding.bind_ortvalue_input(name, array.value)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        return {name: array.numpy() for name, array in self.run_on_device(inputs).items()}

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> Mapping[str, DeviceArray]:
        """See Engine.run_on_device."""
        self.bind(inputs)
        try:
            if self._reshaped:
                self._prepare_outputs()
            self._run()
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"{self._spec.name} failed on {self._device}: {first_line(error)}") from error
        if len(self._outputs) == len(self._spec.outputs):
            return dict(self._outputs)
        values = zip(self._spec.outputs, self._binding.get_outputs(), strict=True)  # the session alone knew some shapes
        return {tensor.name: self._array(value, tensor.dtype) for tensor, value in values}

    def clone(self, lane: CudaDevice | None = None) -> OrtEngine:
        """See Engine.clone. The session stays on its stream, so `lane` must share that."""
        return OrtEngine(self._session, self._spec, self._device, self._lane, self._workers, self._numbers)

    @property
    def recordable(self) -> str | None:
        """See ResidentEngine.recordable."""
        return "ONNX Runtime records its runs itself, where it does"

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """See ResidentEngine.enqueue."""
        try:
            self._placed.enqueue(tensors)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"{self._spec.name} failed on {self._device}: {first_line(error)}") from error

    def finish(self) -> None:
        """See ResidentEngine.finish: nothing was compiled."""

    def _on_device(self, name: str, tensor: Tensor) -> OrtArray:
        dtype = self._dtypes[name]
        if isinstance(tensor, OrtArray) and (tensor.dtype, tensor.device) == (dtype, self._device):
            return tensor
        host = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        upload = self._uploads.get(name)
        if upload is None or upload.shape != host.shape:
            self._uploads[name] = upload = self._allocate(host.shape, dtype)
        if upload.host is not None:
            np.copyto(upload.host, host, casting="unsafe")
        else:
            upload.value.update_inplace(np.ascontiguousarray(host, dtype))
        return upload

    def _prepare_outputs(self) -> None:
        axes = resolve_axes(self._spec, {name: array.shape for name, array in self._inputs.items()})
        shapes = [resolved_shape(tensor, axes) for tensor in self._spec.outputs]
        if self._parts is not None and None in shapes:
            shapes = [*self._parts.output_shapes(_on_host(self._inputs))]
        self._outputs.clear()
        for tensor, shape in zip(self._spec.outputs, shapes, strict=True):
            if shape is None:
                self._binding.bind_output(tensor.name, self._device.kind, self._device.index)
            else:
                self._outputs[tensor.name] = buffer = self._allocate(shape, tensor.dtype)
                self._binding.bind_ortvalue_output(tensor.name, buffer.value)
        self._reshaped = False

    def _run(self) -> None:
        if self._parts is not None:
            if self._rebound:
                self._parts.bind(_on_host(self._inputs), _on_host(self._outputs))
                self._rebound = False
            if self._parts.count:
                self._parts.run()
                return
        with self._lock:  # engines that share a stream also share the libraries' handles on it
            self._session.run_with_iobinding(self._binding, self._directly)

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> OrtArray:
        """Return a buffer on the device. On the CPU it is NumPy's memory, written and read without the session."""
        values = onnxruntime().OrtValue
        if self._device.kind == "cpu":
            host = np.empty(shape, dtype)
            return OrtArray(values.ortvalue_from_numpy(host), dtype, self._device, shape, host)
        kind, index = self._device.kind, self._device.index
        return self._array(values.ortvalue_from_shape_and_type(shape, np.dtype(dtype).type, kind, index), dtype)

    def _array(self, value: Any, dtype: str) -> OrtArray:
        host = value.numpy() if self._device.kind == "cpu" else None
        return OrtArray(value, dtype, self._device, tuple(value.shape()), host)


def _on_host(arrays: Mapping[str, OrtArray]) -> dict[str, NDArray[Any]]:
    """Return the memory of arrays that lie on the CPU."""
    return {name: array.host for name, array in arrays.items() if array.host is not None}


class GraphNumbers:
    """The numbers of a session's graphs, which its lanes share: places differ, so no two runs may have one number."""

    def __init__(self, most: int) -> None:
        """most: how many graphs there may be; 0 records nothing."""
        self._numbers = itertools.count(1)
        self._most = most

    def next(self) -> int:
        """Return a number, UNRECORDED when there are none left."""
        number = next(self._numbers)
        return number if number <= self._most else UNRECORDED

    def stop(self) -> None:
        """Give out no more."""
        self._most = 0


class _Run:
    """A binding to a set of places: how often it ran, and under which number it is recorded."""

    def __init__(self, binding: Any, number: int) -> None:
        self.binding, self.number, self.count = binding, number, 0

    def options(self) -> Any:
        """Return those of the next run."""
        self.count += 1
        return run_options(self.number if self.count > RUNS_BEFORE else UNRECORDED, waits=False)


class PlacedRuns:
    """The bindings of one engine, one for every set of places, the least recently used given up beyond the most.

    Tensors lie at their addresses: nothing is copied and nothing waited for. Where the session was made for it
    (`session.records_graphs`), it records the run at every set of places in a CUDA graph of its own, once runs there
    have taken their memory, and replays it from then on.
    """

    def __init__(
        self,
        session: Any,
        spec: ComponentSpec,
        device: Device,
        lock: AbstractContextManager[Any],
        numbers: GraphNumbers,
        lane: CudaDevice | None,
    ) -> None:
        """lock: held while a run is queued, because lanes that share a session share its stream."""
        self._session, self._spec, self._device, self._lock = session, spec, device, lock
        self._numbers, self._lane = numbers, lane
        self._runs: OrderedDict[tuple[object, ...], _Run] = OrderedDict()
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in (*spec.inputs, *spec.outputs)}

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """See ResidentEngine.enqueue."""
        key = tuple((name, place.address, place.shape) for name, place in sorted(tensors.items()))
        run = self._runs.get(key) or self._bind(key, tensors)
        self._runs.move_to_end(key)
        with self._lock:
            try:
                self._session.run_with_iobinding(run.binding, run.options())
            except Exception as error:
                if run.number == UNRECORDED or run.count <= RUNS_BEFORE:
                    raise
                self._go_on_without(error)
                self._session.run_with_iobinding(run.binding, run.options())

    def _go_on_without(self, error: Exception) -> None:
        """Record nothing more: ONNX Runtime leaves the stream as it is when a recording fails."""
        log.warning("%s runs without CUDA graphs from here on: %s", self._spec.name, first_line(error))
        if self._lane is not None:
            self._lane.abandon()
        self._numbers.stop()
        for run in self._runs.values():
            run.number = UNRECORDED

    def _bind(self, key: tuple[object, ...], tensors: Mapping[str, DeviceTensor]) -> _Run:
        if tensors.keys() != self._dtypes.keys():
            wrong = sorted(tensors.keys() ^ self._dtypes.keys())
            raise EngineError(f"{self._spec.name} needs {', '.join(self._dtypes)} in place; {', '.join(wrong)} differ.")
        binding = self._session.io_binding()
        outputs = {tensor.name for tensor in self._spec.outputs}
        for name, place in tensors.items():
            bind = binding.bind_output if name in outputs else binding.bind_input
            dtype = self._dtypes[name].type
            bind(name, self._device.kind, self._device.index, dtype, list(place.shape), place.address)
        run = self._runs[key] = _Run(binding, self._numbers.next())
        if len(self._runs) > MOST_BINDINGS:
            self._runs.popitem(last=False)
        return run
