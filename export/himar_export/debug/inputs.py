"""Takes a component's real inputs: what the self-test, or a recorded run, gives it while it is replayed."""

from __future__ import annotations

from pathlib import Path

from himar_kernels import HimarError, InputError
from himar_runtime import Bundle, Device, Networks, Pipeline, load_networks

from ..families.checks import family_checks
from ..make.selftest import emulated_bundle
from ..verify.calls import Feed, SeenEngine
from ..verify.recording import Recording
from ..verify.verify import SELFTEST_CASE

CALLS = 4
"""Calls of a component that are looked at, the first ones: a recording holds states of several steps before its run."""


class _EnoughError(Exception):
    """Ends a replay once all calls that were wanted are seen."""


def _stop() -> None:
    raise _EnoughError


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
        seen = SeenEngine(networks[component], CALLS, _stop)
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
