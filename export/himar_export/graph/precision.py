"""Defines precisions and the layers that run in them: half-precision (or 8-bit) matmuls inside a float32 stream.

Every graph keeps its residual stream, its norms and its last matmul in float32 (the islands) and runs
matmuls, convolutions, attention and the activations between them in the component's precision. A sum over many
blocks or a variance is what overflows or loses digits in half precision; a matmul of normalised values does neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from himar_kernels import BuildError

from .precision_choice import Precision

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def value_type(precision: Precision) -> torch.dtype:
    """Return the type of matmuls in a component's module; int8 and fp8 change its graph later (`quantise`, `fp8`)."""
    return {"int8": torch.float32, "fp8": torch.float16}.get(precision) or DTYPES[precision]


class BiasPending(NamedTuple):
    """A matmul's values (…, out) before its bias (out) is added; bias is None where nothing is left to add.

    Where one matmul makes several results of the same width, this is number `part` of `among`, and values and
    bias are those of all.
    """

    values: Tensor
    bias: Tensor | None
    part: int = 0
    among: int = 1

    def with_bias(self) -> Tensor:
        """Return the part's values with its bias."""
        values, *bias = (
            each.chunk(self.among, dim=-1)[self.part] if self.among > 1 else each
            for each in (self.values, self.bias)
            if each is not None
        )
        return values + bias[0] if bias else values

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Values and bias, of a matmul that has one; those of all parts."""
        assert self.bias is not None
        return self.values, self.bias


class Matmul(nn.Module):
    """y = x·W + b with W (in, out) in `dtype`; x is cast to it, y stays in it.

    given: weight (out, in) and bias (out) as they were before they were cast; empty once `drop_given` has checked them.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        """Take a torch Linear's weight (out, in) and bias (out)."""
        super().__init__()
        self.given: tuple[Tensor, ...] = (weight, bias)
        self.hold(dtype)

    def hold(self, dtype: torch.dtype) -> None:
        """Hold what was given in `dtype`."""
        weight, bias = self.given
        self.weight = nn.Parameter(weight.t().contiguous().to(dtype), requires_grad=False)
        self.bias = nn.Parameter(bias.to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        return self.bias_pending(x).with_bias()

    def bias_pending(self, x: Tensor) -> BiasPending:
        """Map (…, in) to the same without its bias."""
        return BiasPending(x.to(self.weight.dtype) @ self.weight, self.bias)


def matmul(layer: nn.Module, dtype: torch.dtype) -> Matmul:
    """Make a Matmul of a Linear or of a 1×1 convolution."""
    if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.bias is None:
        raise TypeError(f"a matmul needs a Linear or a 1×1 convolution with a bias, not {layer}")
    return Matmul(layer.weight.flatten(1), layer.bias, dtype)


def gated(weight: Tensor, bias: Tensor, gate: Tensor, dtype: torch.dtype) -> Matmul:
    """Return gate·(W·x + b) as one matmul: W (out, in), b and gate (out)."""
    return Matmul(weight * gate[:, None], bias * gate, dtype)


class HalfConvolution(nn.Module):
    """A convolution in half precision between float32 activations; given: its weight and bias before they were cast."""

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.given: tuple[Tensor, ...] = (convolution.weight, _bias(convolution))
        self.hold(dtype)
        self.stride, self.padding = convolution.stride, convolution.padding

    def hold(self, dtype: torch.dtype) -> None:
        """Hold what was given in `dtype`."""
        self.weight, self.bias = (nn.Parameter(each.detach().to(dtype), requires_grad=False) for each in self.given)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (B, C, h, w) to float32 (B, C', h', w')."""
        half = nn.functional.conv2d(
            x.to(self.weight.dtype),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
        )
        return half.float()


def halve_convolutions(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace every convolution inside `module` by one in half precision, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, HalfConvolution(child, dtype))
        else:
            halve_convolutions(child, dtype)


def to_half(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast weights, refusing those that the precision cannot hold (BuildError)."""
    cast = tensor.to(dtype)
    if not torch.isfinite(cast).all() and torch.isfinite(tensor).all():
        raise BuildError(
            f"a weight of {float(tensor.abs().max()):.4g} overflows {str(dtype).removeprefix('torch.')}; "
            f"build this component with fp32 or bf16."
        )
    return cast


def drop_given(graph: nn.Module, component: str) -> None:
    """Forget what the layers of a graph were given; BuildError where a layer's precision cannot hold that."""
    for name, module in graph.named_modules():
        if isinstance(module, Matmul | HalfConvolution):
            for given, held in zip(module.given, (module.weight, module.bias), strict=False):
                if not torch.isfinite(held).all() and torch.isfinite(given).all():
                    raise BuildError(
                        f"a weight of {float(given.abs().max()):.4g} in {name} overflows "
                        f"{str(held.dtype).removeprefix('torch.')}; keep that layer in float32 with "
                        f"--fp32-layers {component}={name}, or build {component} with fp32 or bf16."
                    )
            module.given = ()


def _bias(convolution: nn.Conv2d) -> Tensor:
    return torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias
