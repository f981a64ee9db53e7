"""Calls into CUDA through cuda-python, with its error codes turned into sentences."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from himar_kernels import EngineError
from himar_runtime.engines.engine import Device, first_line


class DriverMissingError(EngineError):
    """A library of CUDA's does not load, its driver as a rule."""


def runtime_api() -> ModuleType:
    """Import cuda-python's runtime API; EngineError when it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            "the kernels are launched through cuda-python, which is not installed here; pip install 'himar[kernels]'."
        ) from error
    return runtime


def driver_api() -> ModuleType:
    """Import cuda-python's driver API; EngineError when it is not installed."""
    runtime_api()
    from cuda.bindings import driver

    return driver


def call(function: Any, *arguments: Any) -> Any:
    """Call a function of cuda-python; return its results, one as itself, several as a tuple.

    Raises EngineError with CUDA's name of the error when the call fails or there is no NVIDIA driver.
    """
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # cuda-python found no driver library
        raise DriverMissingError(
            f"CUDA cannot be used here: {first_line(error).rstrip('.')}; install NVIDIA's driver."
        ) from error
    if int(status) != 0:
        raise EngineError(f"CUDA's {function.__name__} failed: {status.name.removeprefix('cudaError')}.")
    return results[0] if len(results) == 1 else tuple(results) or None


def compute_capability(device: Device) -> tuple[int, int]:
    """Return a GPU's compute capability, such as (9, 0); EngineError when there is no such GPU."""
    cudart = runtime_api()
    attributes = cudart.cudaDeviceAttr
    wanted = (attributes.cudaDevAttrComputeCapabilityMajor, attributes.cudaDevAttrComputeCapabilityMinor)
    try:
        major, minor = (call(cudart.cudaDeviceGetAttribute, attribute, device.index) for attribute in wanted)
    except EngineError as error:
        raise EngineError(
            f"{device} is not a GPU that can be used here: {error} `nvidia-smi -L` lists the GPUs; without one, use "
            f"device 'cpu'."
        ) from error
    return major, minor
