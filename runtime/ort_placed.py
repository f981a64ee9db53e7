"""Runs of an ONNX Runtime session on tensors that lie at addresses: nothing is copied and nothing waited for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from himar_kernels import EngineError

from .engine import Device
from .manifest import ComponentSpec
from .resident.device import Placed

MOST_BINDINGS = 256

Lock = AbstractContextManager[Any]


class PlacedRuns:
    """The bindings of one engine, one for every set of places, the least recently used given up beyond the most."""

    def __init__(self, session: Any, spec: ComponentSpec, device: Device, lock: Lock) -> None:
        """lock: held while a run is queued, because lanes that share a session share its stream."""
        self._session, self._spec, self._device, self._lock = session, spec, device, lock
        self._without_waiting = _without_waiting()
        self._bindings: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in (*spec.inputs, *spec.outputs)}

    def enqueue(self, tensors: Mapping[str, Placed]) -> None:
        """See ResidentEngine.enqueue."""
        key = tuple((name, place.address, place.shape) for name, place in sorted(tensors.items()))
        binding = self._bindings.get(key) or self._bind(key, tensors)
        self._bindings.move_to_end(key)
        with self._lock:
            self._session.run_with_iobinding(binding, self._without_waiting)

    def _bind(self, key: tuple[object, ...], tensors: Mapping[str, Placed]) -> Any:
        if tensors.keys() != self._dtypes.keys():
            wrong = sorted(tensors.keys() ^ self._dtypes.keys())
            raise EngineError(f"{self._spec.name} needs {', '.join(self._dtypes)} in place; {', '.join(wrong)} differ.")
        binding = self._session.io_binding()
        outputs = {tensor.name for tensor in self._spec.outputs}
        for name, place in tensors.items():
            bind = binding.bind_output if name in outputs else binding.bind_input
            dtype = self._dtypes[name].type
            bind(name, self._device.kind, self._device.index, dtype, list(place.shape), place.address)
        self._bindings[key] = binding
        if len(self._bindings) > MOST_BINDINGS:
            self._bindings.popitem(last=False)
        return binding


def _without_waiting() -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options
