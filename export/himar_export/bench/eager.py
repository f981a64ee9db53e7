"""Runs the eager side: the model's own modules in the bundle's precisions, as they are, compiled, or timed by call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from himar.device import use_threads
from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.training import repeated_blocks
from himar.families.hi_mar.transformer import Block
from himar.vae.autoencoder import AutoencoderKL
from himar_kernels.families.hi_mar.phases import VAE_DECODER

from ..families.hi_mar.phases import model_info, phase_head
from ..graph.precision import DTYPES
from .measurement import SideUnavailableError
from .time_breakdown import Clock

Networks = tuple[HiMAR, AutoencoderKL | None]


def eager_networks(
    model: HiMAR,
    vae: AutoencoderKL | None,
    precisions: Mapping[str, str],
    *,
    compiled: bool = False,
    clock: Clock | None = None,
) -> Networks:
    """Return copies of both networks that share their weights and run each component in its precision.

    Half precision is autocast around the component; what comes out is float32 again, as it is from an engine. Where
    transformers and heads share one precision, weights of matmuls are cast once, here; else at every call.

    Args:
        precisions: of each component's matmuls; float32 where it is not named.
        compiled: through torch.compile, which works when a shape is first seen: heads and decoder each as one graph,
            transformers block by block, since their sequences change from step to step.
        clock: adds up the time of each component's calls.
    """
    device = model.mask_token.device.type

    def guard(run: Callable[..., Tensor], component: str, counts: bool = True) -> Callable[..., Tensor]:
        precision = precisions.get(component, "fp32")

        def guarded(*arguments: Any) -> Tensor:
            half = nullcontext() if precision == "fp32" else torch.autocast(device, DTYPES[precision])
            with nullcontext() if clock is None else clock.of(component, counts), half:
                return run(*arguments).float()

        return guarded

    def replace(
        module: nn.Module, method: str, component: str, counts: bool = True, dynamic: bool | None = None
    ) -> None:
        run = getattr(module, method)
        if compiled and dynamic is not None:
            run = torch.compile(run, dynamic=dynamic)
        setattr(module, method, guard(run, component, counts))

    model = shared_copy(model)
    if compiled:
        for block in repeated_blocks(model):
            if isinstance(block, Block):
                block.compile(dynamic=True)
    phases = model_info(model.config).phases
    used = {precisions.get(name, "fp32") for phase in phases for name in (phase.transformer, phase.head)}
    if len(used) == 1:  # phases share weights, and a head's condition is embedded in its transformer's precision
        hold_cast(model, *used)
    for phase in phases:
        head = phase_head(model, phase.name)
        replace(model, f"transformer_{phase.name}", phase.transformer)
        replace(head, "condition", phase.transformer, counts=False)  # in the engines it is the transformer's
        # An MLP head takes as many rows as a step reveals; a DiT head takes all positions in every step.
        replace(head, "denoise", phase.head, dynamic=phase.kind == "mlp")
    if vae is not None:
        vae = shared_copy(vae)
        hold_cast(vae, precisions.get(VAE_DECODER, "fp32"))
        replace(vae, "decode", VAE_DECODER, dynamic=False)
    return model, vae


_AnyModule = TypeVar("_AnyModule", bound=nn.Module)


def shared_copy(module: _AnyModule) -> _AnyModule:
    """Return a copy of a module, with copies of the modules in it, on the same parameters and buffers.

    Methods and submodules of the copy can be replaced without a trace in the original.
    """
    copies: dict[int, nn.Module] = {}

    def of(each: nn.Module) -> nn.Module:
        if id(each) not in copies:
            # copy.deepcopy with the tensors kept would do the same a hundred times slower.
            copies[id(each)] = twin = copy.copy(each)
            inner = {name: None if child is None else of(child) for name, child in each._modules.items()}
            twin.__dict__ |= {"_modules": inner, "_parameters": dict(each._parameters), "_buffers": dict(each._buffers)}
        return copies[id(each)]

    return of(module)  # type: ignore[return-value]


def hold_cast(copied: nn.Module, precision: str) -> None:
    """Give the matmuls and convolutions of a `shared_copy` weights of their own in half precision, once and for all.

    They are what autocast makes of the weights at every call, so no result changes.
    """
    dtype = DTYPES[precision]
    for module in copied.modules():
        if dtype != torch.float32 and isinstance(module, nn.Linear | nn.Conv2d):
            module._parameters = {
                name: None if value is None else nn.Parameter(value.to(dtype), requires_grad=False)
                for name, value in module._parameters.items()
            }


@contextmanager
def compiling() -> Iterator[None]:
    """Turn what torch.compile raises where it cannot work into SideUnavailableError."""
    try:
        yield
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SideUnavailableError(
            f"torch.compile does not work here ({type(error).__name__}: {reason.strip()}); on a CPU it needs a C++ "
            f"compiler (CXX), on a GPU Triton and a C compiler"
        ) from error


def wait_for(device: torch.device) -> Callable[[], None]:
    """Return a function that returns when the device has nothing left to do."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


@contextmanager
def plain_float32(threads: int | None) -> Iterator[int]:
    """Keep TF32 out of float32, use `threads` CPU threads (None: see `use_threads`), and yield how many that are."""
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    use_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[1:]
