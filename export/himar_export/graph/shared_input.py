"""Several products of one input: as one product whose result is split, or each by itself.

A GPU reads the input once for one large product, and its builder makes the split views. ONNX Runtime's CPU kernels
copy every part of a split, which costs more than reading the input again, so its graphs hold the parts by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .precision import BiasPending, Product

Affine = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out) of a product, as torch's Linear has them."""


class Merged(Product):
    """Map x (…, in) to the results (…, out) of several products, which are one product whose result is split."""

    def __init__(self, parts: Sequence[Affine], dtype: torch.dtype) -> None:
        super().__init__(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]), dtype)
        self.sizes = [len(bias) for _, bias in parts]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return every product's result, in the order that the products were given in."""
        return tuple(part.values for part in self.bias_pending(x))

    def bias_pending(self, x: Tensor) -> tuple[BiasPending, ...]:  # type: ignore[override]
        """Return the same: nothing lacks its bias."""
        return tuple(BiasPending(part, None) for part in super().bias_pending(x).with_bias().split(self.sizes, dim=-1))


class Separate(nn.ModuleList):
    """Map x (…, in) to the results (…, out) of several products, each by itself."""

    def __init__(self, parts: Sequence[Affine], dtype: torch.dtype) -> None:
        super().__init__(Product(weight, bias, dtype) for weight, bias in parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return every product's result, in the order that the products were given in."""
        return tuple(part.with_bias() for part in self.bias_pending(x))

    def bias_pending(self, x: Tensor) -> tuple[BiasPending, ...]:
        """Return every product's result without its bias."""
        return tuple(product.bias_pending(x) for product in self)  # type: ignore[operator]


def shared_input(parts: Sequence[Affine], dtype: torch.dtype, merged: bool) -> Merged | Separate:
    """Return the products of one input in one of the two forms."""
    return Merged(parts, dtype) if merged else Separate(parts, dtype)


def parts_of(linear: nn.Module, count: int) -> list[Affine]:
    """Return a Linear's outputs as `count` equal parts."""
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"parts are those of a Linear, not of {linear}")
    return list(zip(linear.weight.detach().chunk(count), linear.bias.detach().chunk(count), strict=True))


def plus_one(parts: Iterable[Affine], scales: Iterable[int]) -> list[Affine]:
    """Return the parts with 1 added to the biases of those numbered `scales`: they give 1 + scale, not scale."""
    chosen = set(scales)
    return [(weight, bias + 1 if i in chosen else bias) for i, (weight, bias) in enumerate(parts)]
