"""Runs for `himar strip --allow-code`, never imported: unpickles a file and writes its tensors in plain containers.

Needs PyTorch alone, so that any Python can run it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch


def plain(value: Any, depth: int = 0) -> Any:
    """Return tensors in dicts with text as keys, and None for everything else."""
    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu").as_subclass(torch.Tensor).contiguous()
    if hasattr(value, "__array__") and getattr(value, "ndim", None):
        return torch.as_tensor(value)
    if depth > 8:
        return None
    if not isinstance(value, Mapping):
        value = getattr(value, "__dict__", None)
    if not isinstance(value, Mapping):
        return None
    return {str(name): plain(each, depth + 1) for name, each in value.items()}


if __name__ == "__main__":
    source, target = sys.argv[1:]
    torch.save(plain(torch.load(source, map_location="cpu", weights_only=False)), target)
