"""Finds the GPU of this machine and what a builder of engines needs to know of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from himar_kernels import EngineError
from himar_runtime import Device
from himar_runtime.queue.cuda.driver import call, compute_capability, runtime_api

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """name as the driver gives it; capability such as "9.0"."""

    name: str
    capability: str


def find_gpu(index: int = 0) -> Gpu | None:
    """Return the GPU with this number, the first if not given; None without a GPU, its driver or cuda-python."""
    try:
        major, minor = compute_capability(Device("cuda", index))
        name = bytes(call(runtime_api().cudaGetDeviceProperties, index).name)
    except EngineError as error:
        log.debug("no GPU to build on: %s", error)
        return None
    return Gpu(name.split(b"\0")[0].decode(errors="replace"), f"{major}.{minor}")
