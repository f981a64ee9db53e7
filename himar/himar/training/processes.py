"""Joins the processes of one training: alone, or started together by torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from himar_kernels import ConfigError

from ..device import usable_device

MOST_PROCESSES = 65_536


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
    Raises ConfigError when a GPU is named but several processes share the machine, the device cannot be used, or the
    variables that torchrun sets make no sense.
    """
    place, device = announced_process(device)
    count = place.count
    usable = usable_device(device)
    if count == 1:
        yield Processes(), device
        return
    if usable.type == "cuda":
        torch.cuda.set_device(usable)
    try:
        dist.init_process_group("nccl" if usable.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the {count} processes that WORLD_SIZE names cannot be joined ({str(error).strip().splitlines()[0]}); "
            f"start them with torchrun."
        ) from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


def announced_process(device: str) -> tuple[Processes, str]:
    """Return this process's place among those that torchrun started, and its device; they are not joined.

    "cuda" becomes the GPU of this process's local rank. Raises ConfigError when a GPU is named but several processes
    share the machine, or the variables that torchrun sets make no sense.
    """
    count = _number("WORLD_SIZE", 1, range(1, MOST_PROCESSES + 1))
    rank = _number("RANK", None if count > 1 else 0, range(count))
    if "RANK" in os.environ and device == "cuda":
        device = f"cuda:{_number('LOCAL_RANK', 0, range(MOST_PROCESSES))}"
    elif count > 1 and device.startswith("cuda:"):
        raise ConfigError(f"device {device!r} would be shared by {count} processes; use cuda.")
    return Processes(rank, count), device


def _number(name: str, absent: int | None, allowed: range) -> int:
    """Read a variable that torchrun sets. Raises ConfigError; `absent` None means that it must be there."""
    text = os.environ.get(name, "" if absent is None else str(absent))
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) not in allowed:
        raise ConfigError(
            f"the environment variable {name} is {text!r}, where {allowed[0]} to {allowed[-1]} makes sense; "
            f"start with torchrun, or unset RANK, LOCAL_RANK and WORLD_SIZE for one process."
        )
    return int(text)
