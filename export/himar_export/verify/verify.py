"""Checks that a bundle reproduces the model's numbers: replays a recording through the engines, without torch.

The self-test of a bundle is such a recording, made from the eager model when the bundle was built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from himar_kernels import InputError
from himar_runtime import Bundle, Device, Networks, Pipeline, load_networks

from ..families.checks import family_checks
from .compare import Comparison
from .recording import Recording

SELFTEST_CASE = "selftest"


def verify_selftest(bundle: Bundle, device: str = "cpu") -> list[Comparison]:
    """Replay the bundle's self-test; see `verify`."""
    recording = family_checks(bundle.manifest.family).load_recording(bundle.path(bundle.manifest.selftest))
    return verify(bundle, recording, SELFTEST_CASE, device, backend_for(device))


def verify_recording(bundle: Bundle, recording: Path, case: str | None = None, device: str = "cpu") -> list[Comparison]:
    """Replay a recording in the layout of golden/README.md, one case or (None) all; see `verify`."""
    arrays = family_checks(bundle.manifest.family).load_recording(recording)
    return verify(bundle, arrays, case, device, backend_for(device))


def backend_for(device: str) -> str | None:
    """Return what `verify` runs on a device: on the CPU ONNX Runtime the graphs, since TensorRT engines cannot run."""
    return "onnxruntime" if Device.parse(device).kind == "cpu" else None


def what_ran(built_for: str, device: str) -> str:
    """Say in words what a verification on this device runs of a bundle; engines that it leaves out are named."""
    if backend_for(device) in (None, built_for):
        return f"{built_for} on {device}"
    return f"onnxruntime on {device}, on the ONNX graphs: the {built_for} engines were not run, that takes their GPU"


def verify(
    bundle: Bundle,
    arrays: Mapping[str, NDArray[Any]],
    case: str | None,
    device: str = "cpu",
    backend: str | None = None,
    watch: Callable[[Networks], Networks] = lambda networks: networks,
) -> list[Comparison]:
    """Compare every component and every run that the recording holds with what the engines give.

    backend: see himar_runtime.load_networks. watch: puts something around the engines, which sees what they are given.

    Raises:
        BundleError, EngineError: the bundle lacks a component or cannot be run here.
        InputError: the recording has no such case, is of another model, or holds nothing to compare.
    """
    checks = family_checks(bundle.manifest.family)
    recording = Recording(arrays)
    checks.require_same_model(bundle, recording)
    networks = watch(load_networks(bundle, Device.parse(device), None, backend))
    comparisons = checks.verify(Pipeline(bundle, networks), networks, recording, case)
    if not comparisons:
        raise InputError(
            f"the recording holds neither a run nor outputs of {', '.join(bundle.manifest.components)}, "
            f"the components of {bundle.root}."
        )
    return comparisons
