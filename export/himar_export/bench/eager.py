"""What the eager sides of all families share: copies on the same weights, half precision, clocks, torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from himar.device import use_threads

from ..graph.precision import DTYPES
from .measurement import SideUnavailableError
from .time_breakdown import Clock


@dataclass(frozen=True)
class Guard:
    """Runs methods of eager modules in their component's precision and on its clock.

    device: its type; precisions: of each component's matmuls, float32 where it is not named; clock: None times nothing.
    """

    device: str
    precisions: Mapping[str, str]
    compiled: bool = False
    clock: Clock | None = None

    def wrap(self, run: Callable[..., Any], component: str, counts: bool = True) -> Callable[..., Any]:
        """Return `run` with float32 results; counts: whether a run is a call of the component, not only part of one."""
        precision = self.precisions.get(component, "fp32")

        def guarded(*arguments: Any) -> Any:
            half = nullcontext() if precision == "fp32" else torch.autocast(self.device, DTYPES[precision])
            with nullcontext() if self.clock is None else self.clock.of(component, counts), half:
                return _float32(run(*arguments))

        return guarded

    def replace(
        self, module: nn.Module, method: str, component: str, counts: bool = True, dynamic: bool | None = None
    ) -> None:
        """Put a guarded method in the place of a copied module's own, compiled where `dynamic` says how."""
        run = getattr(module, method)
        if self.compiled and dynamic is not None:
            run = torch.compile(run, dynamic=dynamic)
        setattr(module, method, self.wrap(run, component, counts))


def _float32(values: Any) -> Any:
    """Return a tensor, or a named tuple of them, in float32."""
    return values.float() if isinstance(values, Tensor) else type(values)(*(value.float() for value in values))


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
