"""Wraps the model for training: one forward from tokens to losses, in half precision, copied or sharded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..families.hi_mar.dit_head import DiTBlock
from ..families.hi_mar.loss_draws import BatchDraws
from ..families.hi_mar.losses import Losses, drawn_losses
from ..families.hi_mar.mlp_head import ResidualBlock
from ..families.hi_mar.model import HiMAR
from ..families.hi_mar.transformer import Block
from .processes import Processes
from .settings import Execution, Precision

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LossNetwork(nn.Module):
    """Maps a part of the batch to the four losses, so that wrappers around it see the whole computation."""

    def __init__(self, model: HiMAR, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._precision: Precision = precision

    def forward(self, tokens: Tensor, low_tokens: Tensor, draws: BatchDraws) -> Tensor:
        """Return low_mse, low_vb, high_mse, high_vb as (4,), float32."""
        autocast: AbstractContextManager[object] = nullcontext()
        if self._precision != "fp32":
            autocast = torch.autocast(tokens.device.type, dtype=_AUTOCAST[self._precision])
        losses = drawn_losses(self.model, tokens, low_tokens, draws, autocast)
        return torch.stack([losses.low_mse, losses.low_vb, losses.high_mse, losses.high_vb])


def losses_from(values: Tensor, model: HiMAR) -> Losses:
    """Name the four values that a `LossNetwork` returns."""
    low_mse, low_vb, high_mse, high_vb = values.unbind()
    return Losses(low_mse, low_vb, high_mse, high_vb, model.config.single_scale)


def wrap(model: HiMAR, precision: Precision, execution: Execution, processes: Processes) -> nn.Module:
    """Return the network to call; the model's own parameters become shards under `execution.fsdp`."""
    model.recompute = execution.recompute
    if execution.compile:
        # Block by block: a run compiles a handful of small graphs, and sequence lengths change from step to step.
        for block in repeated_blocks(model):
            block.compile(dynamic=True)
    network = LossNetwork(model, precision)
    if execution.fsdp:
        shard(model)
        shard_root(network)
        return network
    if processes.count == 1:
        return network
    return DistributedDataParallel(network, forward_sync_buffers=False)


def repeated_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """All blocks of transformer and heads."""
    return (module for module in model.modules() if isinstance(module, Block | DiTBlock | ResidualBlock))


def shard(model: nn.Module) -> None:
    """Shard each block's parameters over all processes (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    for block in repeated_blocks(model):
        fully_shard(block)


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
