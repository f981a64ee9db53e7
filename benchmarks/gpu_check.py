"""Whether the GPU that a benchmark is asked for is there: found out before anything is built or written."""

from __future__ import annotations

import torch

from himar_kernels import EngineError


def require_gpu(device: str) -> None:
    """Raise EngineError unless PyTorch has "cuda" or "cuda:N"; "cpu" is always there."""
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise EngineError(f"PyTorch has no GPU here for device {device!r}; use --device cpu.")
    count = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= count:
        raise EngineError(f"PyTorch has {count} GPU here, so no device {device!r}; use --device cuda:{count - 1}.")
