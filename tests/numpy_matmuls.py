"""A pytest plugin (`-p numpy_matmuls`): PyTorch's float32 matmuls are computed by NumPy's library instead.

Another library blocks and adds up in another order, as PyTorch's own does on another CPU; NumPy's (OpenBLAS) lets
OPENBLAS_CORETYPE choose whose. A call of few rows goes to PyTorch's library all the same, so that a row's last bits
depend on its batch, as they may anywhere. Attention is composed of such products, not fused.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

FEW = 4
"""Rows up to which a product stays PyTorch's."""


def _multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    if a.dtype != torch.float32 or b.dtype != torch.float32 or a.shape[-2] <= FEW:
        return None
    return torch.from_numpy(a.detach().numpy() @ b.detach().numpy())


def _mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    made = _multiply(a, b)
    return torch.ops.aten.mm.out(a, b, out=a.new_empty(0)) if made is None else made


def _bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    made = _multiply(a, b)
    return torch.ops.aten.bmm.out(a, b, out=a.new_empty(0)) if made is None else made


def _addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: Any = 1, alpha: Any = 1) -> torch.Tensor:
    made = _multiply(a, b)
    if made is None or (beta, alpha) != (1, 1):
        return torch.ops.aten.addmm.out(bias, a, b, beta=beta, alpha=alpha, out=a.new_empty(0))
    return made + bias


def _install() -> torch.library.Library:
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel is replaced
        for name, function in (("mm", _mm), ("bmm", _bmm), ("addmm", _addmm)):
            library.impl(name, function, "CPU")
    torch.backends.cuda.enable_flash_sdp(False)
    return library


_LIBRARY = _install()
