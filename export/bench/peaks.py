"""What this device can do at best: copied bytes and matrix products per second, measured with PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

REPEATS = 20
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def seconds_each(run: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """Return the median time of a run after three to warm up; on a GPU by events around each."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        if device == "cuda":
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
    return statistics.median(times)


def copy_rate(device: str) -> dict[str, Any]:
    """Return the bytes read and written per second by a copy of 1 GiB (64 MiB on a CPU)."""
    count = (1 << 28) if device == "cuda" else (1 << 24)
    source = torch.empty(count, device=device).normal_()
    target = torch.empty_like(source)
    seconds = seconds_each(lambda: target.copy_(source), device)
    return {"bytes": 2 * 4 * count, "bytes_per_second": 2 * 4 * count / seconds}


def product_rate(device: str, precision: str, size: int) -> dict[str, Any]:
    """Return FLOP/s of a square matrix product of `size` in one precision; float32 without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = (torch.randn(size, size, device=device).to(_DTYPES[precision]) for _ in range(2))
    return {"size": size, "flops_per_second": 2 * size**3 / seconds_each(lambda: a @ b, device, 10)}


def product_rates(device: str) -> dict[str, Any]:
    """Return `product_rate` in every precision, of large products (small ones on a CPU, where half ones are slow)."""
    size = 8192 if device == "cuda" else 256
    return {name: product_rate(device, name, size) for name in _DTYPES}
