"""An engine that is loaded when it first runs: on arrays or in place, once for all clones, and its refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from himar_kernels import EngineError
from himar_runtime import Bundle, Device, load_engine
from himar_runtime.engines.deferred import DeferredEngine
from himar_runtime.queue.device import DeviceTensor, ResidentEngine

LOADED = "ONNX Runtime records its runs itself, where it does"


class Loader:
    """Loads the tiny bundle's MLP head, counting how often."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.loads = bundle, 0
        self.spec = bundle.manifest.components["mlp_head"]

    def __call__(self):
        self.loads += 1
        return load_engine(self.bundle, "mlp_head", Device("cpu"), 1)


@pytest.fixture
def loader(bundle_path: Path) -> Loader:
    return Loader(Bundle.open(bundle_path))


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    condition = rng.standard_normal((3, 4)).astype(np.float32)
    return {"x": np.ones((3, 2), np.float32), "timestep": np.array([500]), "condition": condition}


def test_a_run_in_place_loads_once_and_gives_what_a_run_on_arrays_gives(loader) -> None:
    engine = DeferredEngine(loader.spec, loader)
    assert isinstance(engine, ResidentEngine)
    engine.finish()
    assert engine.recordable is None and loader.loads == 0
    inputs, output = arrays(), np.empty((3, 4), np.float32)
    places = {name: DeviceTensor(array.ctypes.data, array.shape) for name, array in inputs.items()}
    engine.enqueue({**places, "prediction": DeviceTensor(output.ctypes.data, output.shape)})
    engine.finish()
    assert engine.recordable == LOADED and loader.loads == 1
    np.testing.assert_array_equal(engine.clone().run(inputs)["prediction"], output)
    assert loader.loads == 1


def test_an_engine_that_takes_no_tensors_in_device_memory_is_named(loader) -> None:
    class OnArraysAlone:
        spec = loader.spec

    engine = DeferredEngine(loader.spec, OnArraysAlone)
    with pytest.raises(EngineError, match=r"^the engine of mlp_head cannot take its tensors in device memory\.$"):
        engine.enqueue({})
