"""Keeps what engines are given while something else runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_runtime import ComponentSpec
from himar_runtime.engines.engine import DeviceArray, Engine, Tensor

Feed = dict[str, NDArray[Any]]


class SeenEngine:
    """An engine the inputs of whose first calls are kept, of those that are finite; see `Engine` for its methods.

    Attributes:
        calls: what was kept, `most` of them at the most.
    """

    def __init__(self, engine: Engine, most: int, full: Callable[[], None] = lambda: None) -> None:
        """full: called as soon as that many are kept."""
        self._engine, self._most, self._full = engine, most, full
        self._bound: Feed = {}
        self.calls: list[Feed] = []

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        return self._engine.spec

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """See Engine.bind."""
        dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in self.spec.inputs}
        for name, tensor in inputs.items():
            self._bound[name] = np.array(tensor if isinstance(tensor, np.ndarray) else tensor.numpy(), dtypes[name])
        self._engine.bind(inputs)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        self.bind(inputs)
        self._see()
        return self._engine.run({})

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> Mapping[str, DeviceArray]:
        """See Engine.run_on_device."""
        self.bind(inputs)
        self._see()
        return self._engine.run_on_device({})

    def clone(self, lane: Any = None) -> Engine:
        """See Engine.clone; a clone's inputs are not kept."""
        return self._engine.clone(lane)

    def _see(self) -> None:
        if len(self.calls) < self._most and all(np.isfinite(array).all() for array in self._bound.values()):
            self.calls.append(dict(self._bound))
            if len(self.calls) == self._most:
                self._full()
