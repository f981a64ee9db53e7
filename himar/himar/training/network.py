"""Wraps a network for training: blocks compiled, copied or sharded over processes, in half precision or not."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .processes import Processes
from .settings import Execution, Precision

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a network runs in a precision."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_AUTOCAST[precision])


def wrap(
    network: nn.Module,
    blocks: Iterable[nn.Module],
    shards: Iterable[nn.Module],
    execution: Execution,
    processes: Processes,
) -> nn.Module:
    """Return the network to call; its own parameters become shards under `execution.fsdp`.

    blocks, shards: modules inside that are compiled, and sharded, by themselves (`TrainingFamily`).
    """
    if execution.compile:
        # Block by block: a run compiles a handful of small graphs, and sequence lengths change from step to step.
        for block in blocks:
            block.compile(dynamic=True)
    if execution.fsdp:
        shard(shards)
        shard_root(network)
        return network
    if processes.count == 1:
        return network
    return DistributedDataParallel(network, forward_sync_buffers=False)


def shard(modules: Iterable[nn.Module]) -> None:
    """Shard each module's parameters over all processes (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    for module in modules:
        fully_shard(module)


def shard_root(network: nn.Module) -> None:
    """Shard what is outside the blocks; gathered for the whole forward, since it is used all along."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(network, reshard_after_forward=False)


def accumulating(network: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Context of one part's forward and backward; gradients meet those of other processes at the last part only."""
    if isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    synchronise = getattr(network, "set_requires_gradient_sync", None)  # FSDP2 adds it.
    if synchronise is not None:
        synchronise(last)
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor in full, by a call that every process makes; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def fill(target: Tensor, values: Tensor) -> None:
    """Copy full values into a tensor or into this process's shard of it."""
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        values = distribute_tensor(values.to(target.device), target.device_mesh, target.placements)
    target.copy_(values)
