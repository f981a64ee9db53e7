"""Runs an ONNX Runtime session on tensors at given addresses: nothing is copied and nothing waited for.

Where the session was made for it (`session.records_graphs`), it records the run at every set of places in a CUDA
graph of its own, once runs there have taken their memory, and replays it from then on.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from himar_kernels import EngineError
from himar_runtime.bundle.manifest import ComponentSpec
from himar_runtime.queue.device import DeviceTensor

from ..engine import Device, first_line
from .session import UNRECORDED, run_options

if TYPE_CHECKING:
    from himar_runtime.queue.cuda.device import CudaDevice

log = logging.getLogger(__name__)

MOST_BINDINGS = 256
MOST_GRAPHS = 1024
"""Of a session, which keeps them for good."""
RUNS_BEFORE = 2
"""Runs at a set of places before the one that is recorded: memory is planned in the first and taken in the second."""


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
    """The bindings of one engine, one for every set of places, the least recently used given up beyond the most."""

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
