"""Describes where figures were taken: machine, versions, and the peaks that PyTorch reaches on the device."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from himar_export.cost.cost import Peaks
from himar_export.graph.precision import DTYPES
from himar_kernels.build.fused_library import find_library
from himar_runtime.engines.ort.session import records_graphs

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


REPEATS = 20
_SIZES = {"cuda": (4096, 8192, 16384), "cpu": (256, 512, 1024, 2048)}
_LONGEST = 0.1  # seconds of all runs of one size, beyond which no larger one is tried


def seconds_each(run: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """Return the median time of a run after three to warm up; on a GPU by events around each."""
    return statistics.median(_seconds(run, device, repeats))


def copy_rate(device: str) -> dict[str, Any]:
    """Return the bytes read and written per second by the fastest copy of 1 GiB (64 MiB on a CPU)."""
    count = (1 << 28) if _kind(device) == "cuda" else (1 << 24)
    source = torch.empty(count, device=device).normal_()
    target = torch.empty_like(source)
    seconds = min(_seconds(lambda: target.copy_(source), device, REPEATS))
    return {"bytes": 2 * 4 * count, "bytes_per_second": 2 * 4 * count / seconds}


def matmul_rate(device: str, precision: str, size: int) -> dict[str, Any]:
    """Return FLOP/s of a square matmul of `size` in one precision; float32 without TF32."""
    return {"size": size, "flops_per_second": 2 * size**3 / seconds_each(_matmul(device, precision, size), device, 10)}


def matmul_rates(device: str) -> dict[str, Any]:
    """Return `matmul_rate` in every precision, of large matmuls (small ones on a CPU, where half ones are slow)."""
    size = 8192 if _kind(device) == "cuda" else 256
    return {name: matmul_rate(device, name, size) for name in DTYPES}


def device_peaks(device: str, precision: str) -> Peaks:
    """Return the device's peaks: its fastest square matmul, over several sizes and runs, and its fastest copy.

    On a CPU the matmul is float32's where that is faster than half precision's, which engines compute in float32.
    """
    precisions = {precision, "fp32"} if _kind(device) == "cpu" else {precision}
    return Peaks(max(_best_matmul(device, each) for each in precisions), copy_rate(device)["bytes_per_second"])


def _best_matmul(device: str, precision: str) -> float:
    best = 0.0
    for size in _SIZES[_kind(device)]:
        seconds = min(_seconds(_matmul(device, precision, size), device, 5))
        best = max(best, 2 * size**3 / seconds)
        if 8 * seconds > _LONGEST:
            break
    return best


def _matmul(device: str, precision: str, size: int) -> Callable[[], object]:
    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    return lambda: a @ b


def _seconds(run: Callable[[], object], device: str, repeats: int) -> list[float]:
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        if _kind(device) == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
        else:
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    return times


def _kind(device: str) -> str:
    return device.partition(":")[0]
