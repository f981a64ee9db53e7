"""The precisions there are, and which component gets which: names alone, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from himar_kernels import BuildError
from himar_runtime.phases import VAE_DECODER

Precision = Literal["fp32", "fp16", "bf16", "int8"]


def check_precision(value: str, component: str) -> Precision:
    """Return `value` as a Precision or raise BuildError naming the component."""
    for known in get_args(Precision):
        if value == known:
            return known
    raise BuildError(f"precision {value!r} of {component} is unknown; choose fp32, fp16, bf16 or int8.")


def precision_of(component: str, usual: str, single: Mapping[str, str]) -> Precision:
    """Return a component's precision: its own of `single`, or the usual one.

    int8 is of matrix products: where it is usual, the VAE decoder, which convolves, is in float32. Raises BuildError
    for a precision that is unknown, and for int8 as the decoder's own.
    """
    chosen = check_precision(single.get(component, usual), component)
    if component == VAE_DECODER and chosen == "int8":
        if component in single:
            raise BuildError(f"precision int8 of {component} is impossible: it convolves; choose fp32, fp16 or bf16.")
        return "fp32"
    return chosen
