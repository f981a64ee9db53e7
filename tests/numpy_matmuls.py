"""A pytest plugin (`-p tests.numpy_matmuls`): PyTorch's float32 matmuls are computed by NumPy's library instead.

Another library blocks and adds up in another order, as PyTorch's own does on another CPU; NumPy's (OpenBLAS) lets
OPENBLAS_CORETYPE choose whose. A matmul of few rows stays PyTorch's, so that a row's last bits depend on its batch,
as they may anywhere. Attention is composed of such matmuls, not fused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

FEW = 4
"""Rows up to which a matmul stays PyTorch's."""


def _matmul(a: Any, b: Any) -> Any:
    return a @ b


def _is_ours(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype == torch.float32 and a.shape[-2] > FEW


def _replacing(original: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if not _is_ours(a, b):
            return original(a, b, out=a.new_empty(0))
        return torch.from_numpy(_matmul(a.detach().numpy(), b.detach().numpy()))

    return multiply


def _add(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: Any = 1, alpha: Any = 1) -> torch.Tensor:
    if not _is_ours(a, b) or (beta, alpha) != (1, 1):
        return torch.ops.aten.addmm.out(bias, a, b, beta=beta, alpha=alpha, out=a.new_empty(0))
    return torch.from_numpy(_matmul(a.detach().numpy(), b.detach().numpy())) + bias


def _install() -> torch.library.Library:
    """Replace the kernels; they stay replaced as long as what is returned lives."""
    library = torch.library.Library("aten", "IMPL")
    operations = torch.ops.aten
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel is replaced is what we want
        library.impl("mm", _replacing(operations.mm.out), "CPU")
        library.impl("bmm", _replacing(operations.bmm.out), "CPU")
        library.impl("addmm", _add, "CPU")
    torch.backends.cuda.enable_flash_sdp(False)  # the CPU's fused attention too
    return library


_LIBRARY = _install()
