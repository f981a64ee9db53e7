"""Takes a component's real inputs: what the self-test, or a recorded run, gives it while it is replayed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import HimarError, InputError
from himar_runtime import Bundle, ComponentSpec, Device, Networks, Pipeline, load_networks
from himar_runtime.engines.engine import DeviceArray, Engine, Tensor

from ..families.checks import family_checks
from ..make.selftest import emulated_bundle
from ..verify.recording import Recording
from ..verify.verify import SELFTEST_CASE

CALLS = 4
"""Calls of a component that are looked at, the first ones: a recording holds states of several steps before its run."""

Feed = dict[str, NDArray[Any]]


class _EnoughError(Exception):
    """Ends a replay once all calls that were wanted are seen."""


def recorded_inputs(bundle: Bundle, component: str, recording: Path | None, case: str | None) -> list[Feed]:
    """Return the inputs of the first calls of a component in a replay on the CPU.

    recording: None for the bundle's self-test; case: of it, None for all. Raises InputError where it never calls the
    component, or only with values that are not finite.
    """
    checks = family_checks(bundle.manifest.family)
    file = bundle.path(bundle.manifest.selftest) if recording is None else recording
    arrays = Recording(checks.load_recording(file))
    checks.require_same_model(bundle, arrays)
    with emulated_bundle(bundle.root) as runnable:
        opened = bundle if runnable == bundle.root else Bundle.open(runnable)
        networks = load_networks(opened, Device("cpu"), None, "onnxruntime")
        seen = _SeenEngine(networks[component])
        watched = Networks({**networks.engines, component: seen}, networks.lane)
        try:
            checks.verify(Pipeline(opened, watched), watched, arrays, SELFTEST_CASE if recording is None else case)
        except _EnoughError:
            pass
        except HimarError:  # values that are not finite end a run; calls that were seen until then are as good
            if not seen.calls:
                raise
    if not seen.calls:
        what = f"the self-test of {bundle.root}" if recording is None else f"{recording}"
        raise InputError(
            f"{what} never calls {component} with finite values; give --recording a run that does "
            f"(himar-export record)."
        )
    return seen.calls


class _SeenEngine:
    """An engine whose inputs are kept; see `Engine` for what methods do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
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
        if all(np.isfinite(array).all() for array in self._bound.values()):
            self.calls.append(dict(self._bound))
        if len(self.calls) == CALLS:
            raise _EnoughError
