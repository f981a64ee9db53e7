"""Chooses the device that a command was told to use, and its arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from himar_kernels import ConfigError
from himar_kernels.shared.cpu_threads import default_threads


def usable_device(name: str) -> torch.device:
    """Return torch's device "cpu", "cuda" or "cuda:N". Raises ConfigError when it is another or cannot be used.

    Others of torch's devices hold no values ("meta") or were never tried.
    """
    if not re.fullmatch("cpu|cuda(:[0-9]{1,4})?", name):
        raise ConfigError(f"device {name!r} cannot be used: it must be cpu, cuda or cuda:N.")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"device {name!r} cannot be used: {reason}; use cpu.") from error
    return device


def use_threads(threads: int | None = None) -> None:
    """Let PyTorch use `threads` CPU threads. None: what it chose itself, but no more than `default_threads` allows."""
    torch.set_num_threads(min(torch.get_num_threads(), default_threads()) if threads is None else threads)


@contextmanager
def full_precision() -> Iterator[None]:
    """Run convolutions on a GPU in float32 proper: PyTorch's default there is TF32, with 10 bits of mantissa."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
