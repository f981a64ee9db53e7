"""An engine that is loaded when it first runs, for components that most requests never need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from himar_kernels import EngineError

from ..bundle.schema import ComponentSpec
from ..queue.device import DeviceTensor, ResidentEngine
from .engine import DeviceArray, Engine, Tensor

if TYPE_CHECKING:
    from ..queue.cuda.device import CudaDevice


class DeferredEngine:
    """See `himar_runtime.engines.engine.Engine`; clones share what is loaded, whichever of them needed it first.

    It is a `himar_runtime.queue.device.ResidentEngine` too, whose runs fail where what is loaded is none.
    """

    def __init__(self, spec: ComponentSpec, load: Callable[[], Engine]) -> None:
        """load: makes the engine; its EngineError comes from the first run."""
        self._spec, self._load = spec, load
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        return self._spec

    def loaded(self) -> Engine:
        """Return the engine, loading it now if need be."""
        with self._lock:
            if self._engine is None:
                self._engine = self._load()
            return self._engine

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """See Engine.bind."""
        self.loaded().bind(inputs)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        return self.loaded().run(inputs)

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> Mapping[str, DeviceArray]:
        """See Engine.run_on_device."""
        return self.loaded().run_on_device(inputs)

    @property
    def recordable(self) -> str | None:
        """See ResidentEngine.recordable; nothing speaks against an engine that has not run yet."""
        return None if self._engine is None else self._resident().recordable

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """See ResidentEngine.enqueue."""
        self._resident().enqueue(tensors)

    def finish(self) -> None:
        """See ResidentEngine.finish."""
        if self._engine is not None:
            self._resident().finish()

    def _resident(self) -> ResidentEngine:
        engine = self.loaded()
        if not isinstance(engine, ResidentEngine):
            raise EngineError(f"the engine of {self._spec.name} cannot take its tensors in device memory.")
        return engine

    def clone(self, lane: CudaDevice | None = None) -> DeferredEngine:
        """See Engine.clone."""
        return DeferredEngine(self._spec, lambda: self.loaded().clone(lane))
