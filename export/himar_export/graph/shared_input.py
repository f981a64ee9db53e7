"""Writes several matmuls of one input as one matmul, or each by itself.

A GPU reads the input once for one large matmul, and TensorRT's builder makes views of the split result. ONNX Runtime
copies every part of a split, which costs more than reading the input again, so its graphs hold the parts by themselves,
but where all that reads them are operators of ours: these take the whole result and read their parts of its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .precision import BiasPending, Matmul
from .style import GraphStyle

Affine = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out) of a matmul, as torch's Linear has them."""


class Merged(Matmul):
    """Map x (…, in) to the results (…, out) of several matmuls, which are one matmul whose result is split."""

    def __init__(self, parts: Sequence[Affine], dtype: torch.dtype) -> None:
        super().__init__(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]), dtype)
        self.sizes = [len(bias) for _, bias in parts]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return every matmul's result, in the order that the matmuls were given in."""
        return tuple(part.values for part in self.bias_pending(x))

    def bias_pending(self, x: Tensor) -> tuple[BiasPending, ...]:  # type: ignore[override]
        """Return the same; the biases are already added."""
        return tuple(BiasPending(part, None) for part in super().bias_pending(x).with_bias().split(self.sizes, dim=-1))


class Separate(nn.ModuleList):
    """Map x (…, in) to the results (…, out) of several matmuls, each by itself."""

    def __init__(self, parts: Sequence[Affine], dtype: torch.dtype) -> None:
        super().__init__(Matmul(weight, bias, dtype) for weight, bias in parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return every matmul's result, in the order that the matmuls were given in."""
        return tuple(part.with_bias() for part in self.bias_pending(x))

    def bias_pending(self, x: Tensor) -> tuple[BiasPending, ...]:
        """Return every matmul's result without its bias."""
        return tuple(matmul.bias_pending(x) for matmul in self)  # type: ignore[operator]


class Packed(Matmul):
    """Map x (…, in) to the results (…, out) of several matmuls, which lie side by side in the rows of one."""

    def __init__(self, parts: Sequence[Affine], dtype: torch.dtype) -> None:
        if len({weight.shape for weight, _ in parts}) != 1:
            raise ValueError(f"parts side by side are of one shape, not {[tuple(weight.shape) for weight, _ in parts]}")
        super().__init__(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]), dtype)
        self.count = len(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return every matmul's result, in the order that the matmuls were given in."""
        return tuple(part.with_bias() for part in self.bias_pending(x))

    def bias_pending(self, x: Tensor) -> tuple[BiasPending, ...]:  # type: ignore[override]
        """Return every matmul's result without its bias: as parts of one tensor."""
        values, bias = super().bias_pending(x).parts
        return tuple(BiasPending(values, bias, part, self.count) for part in range(self.count))


def modulations(parts: Sequence[Affine], style: GraphStyle) -> Merged | Separate | Packed:
    """Return the matmuls that make scales, shifts and gates, which `elementwise`'s formulas alone read."""
    return Packed(parts, style.dtype) if style.packs_modulations else shared_input(parts, style)


def shared_input(parts: Sequence[Affine], style: GraphStyle) -> Merged | Separate:
    """Return the matmuls of one input in the form that the style asks for."""
    return (Merged if style.merges_shared_inputs else Separate)(parts, style.dtype)


def parts_of(linear: nn.Module, count: int) -> list[Affine]:
    """Return a Linear's outputs as `count` equal parts."""
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"parts are those of a Linear, not of {linear}")
    return list(zip(linear.weight.detach().chunk(count), linear.bias.detach().chunk(count), strict=True))


def plus_one(parts: Iterable[Affine], scales: Iterable[int]) -> list[Affine]:
    """Return the parts with 1 added to the biases of those numbered `scales`, which then yield 1 + scale."""
    chosen = set(scales)
    return [(weight, bias + 1 if i in chosen else bias) for i, (weight, bias) in enumerate(parts)]
