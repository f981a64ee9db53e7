"""The machine and the versions that figures were taken with, so that others can judge them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from himar_kernels.fused_library import find_library
from himar_runtime.ort_session import records_graphs

PACKAGES = (
    "himar", "numpy", "torch", "triton", "onnx", "onnxruntime", "onnxruntime-gpu", "cuda-bindings", "cuda-core",
    "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "nvidia-cublas",
    "tensorrt", "tensorrt-cu13", "tensorrt-lean-cu13", "tensorrt-rtx-cu13",
)  # fmt: skip


def environment(device: str, command: Sequence[str]) -> dict[str, Any]:
    """Return processor, versions, date and command, and on "cuda" or "cuda:N" the GPU, its driver and limits.

    fused_operators: whether the library of our operators was found there, which half-precision sessions load.
    recorded_runs: whether runs of ONNX Runtime are recorded in CUDA graphs.
    """
    found: dict[str, Any] = {
        "command": list(command),
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
    }
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if load is not None:
        found["load_average"] = round(load, 2)
    if device.startswith("cuda"):
        found |= _gpu(device)
        found["fused_operators"] = find_library() is not None
        found["recorded_runs"] = records_graphs()
    return found


def processor() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _gpu(device: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        said = "nvidia-smi is not installed"
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "nvidia_smi": said,
    }
