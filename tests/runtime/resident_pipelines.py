"""Pipelines whose loop is the resident one in host memory, those beside them, and what both must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from himar_runtime import Bundle, Device, Pipeline, load_networks
from himar_runtime.families.hi_mar.host import HostRunner as HiMarHost
from himar_runtime.families.hi_mar.resident.runner import ResidentRunner as HiMarResident
from himar_runtime.families.hmar.host import HostRunner as HmarHost
from himar_runtime.families.hmar.resident.runner import ResidentRunner as HmarResident
from tests.closeness import SAME_ENGINES, assert_near, assert_same_pixels
from tests.runtime import host_lane


def resident_pipeline(path: Path, kernels: Any, recordable: str | None = None) -> Pipeline:
    """Return a bundle's pipeline on a host lane; `recordable` is why its engines refuse to be recorded."""
    bundle = Bundle.open(path)
    lane = host_lane.HostLane(kernels)
    networks = host_lane.on_host_lane(load_networks(bundle, Device("cpu"), 1), lane, recordable)
    pipeline = Pipeline(bundle, networks)
    assert isinstance(pipeline._runner, HiMarResident | HmarResident)
    return pipeline


def lane_of(pipeline: Pipeline) -> Any:
    """Return the lane of a resident pipeline."""
    return pipeline._runner._lane.device


def host_pipeline(path: Path) -> Pipeline:
    """Return a bundle's pipeline with the loop in NumPy."""
    bundle = Bundle.open(path)
    pipeline = Pipeline(bundle, load_networks(bundle, Device("cpu"), 1))
    assert isinstance(pipeline._runner, HiMarHost | HmarHost)
    return pipeline


def same(result: Any, expected: Any) -> None:
    """Require equal latents (relative L2 of 1e-5) and pixels (within 1)."""
    for name in ("low_latents", "latents"):
        assert_near(getattr(result, name), getattr(expected, name), SAME_ENGINES, name)
    if expected.images is not None:
        assert_same_pixels(result.images, expected.images)
