"""The processes of one training: alone, or started together by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from himar_kernels import ConfigError

from .device import usable_device


@dataclass(frozen=True)
class Processes:
    """Place of this process among `count`; rank 0 writes files and reports."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True in the process that writes and reports."""
        return self.rank == 0

    def parts(self, batch: int, accumulate: int) -> list[slice]:
        """Return the slices of a batch that this process works on, one after the other; all parts are equal.

        Raises ConfigError when the batch does not divide.
        """
        size, left = divmod(batch, self.count * accumulate)
        if left or not size:
            raise ConfigError(
                f"a batch of {batch} does not divide into {self.count} processes × {accumulate} parts; "
                f"make it a multiple of {self.count * accumulate}."
            )
        first = self.rank * accumulate
        return [slice(size * part, size * (part + 1)) for part in range(first, first + accumulate)]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of all processes' values."""
        if self.count == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.count

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Join the processes that torchrun started, over NCCL on GPUs and Gloo on CPUs; yield this one's place and device.

    "cuda" becomes the GPU of this process's local rank. Without torchrun there is one process.
    Raises ConfigError when a GPU is named but several processes share the machine, or the device cannot be used.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if "RANK" in os.environ and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    elif count > 1 and device.startswith("cuda:"):
        raise ConfigError(f"device {device!r} would be shared by {count} processes; say cuda.")
    usable = usable_device(device)
    if count == 1:
        yield Processes(), device
        return
    if usable.type == "cuda":
        torch.cuda.set_device(usable)
    dist.init_process_group("nccl" if usable.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
