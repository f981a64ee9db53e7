"""Names the precisions, and chooses which component and which matmul gets which, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from himar_kernels import BuildError
from himar_kernels.families.registry import TEXT_ENCODER, VAE_DECODER, VAE_ENCODER

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]


_MLP_HEAD = "mlp_head"
_OF_DECODERS: Mapping[str, Precision] = {"int8": "fp32", "fp8": "fp16"}
"""Precision of a VAE decoder where the usual one is impossible for it."""

FP8_MULTIPLE = 16
"""What both sizes of a weight are a multiple of where it is in fp8: GPUs' matmuls take 16 bytes at a time."""

FP8_SUFFIX = ".fp8"
"""Of the name of a weight's e4m3 values; before it stands the weight's own."""

_FP8_LAYERS = frozenset(("modulation", "modulations", "fc1", "fc2", "first", "second"))
"""Parts of the names of weights: adaLN, and the feed-forwards of transformers, DiT blocks and MLP heads."""


def takes_fp8(weight: str, sizes: Sequence[int]) -> bool:
    """Return whether the matmul of this weight and these sizes, in by out, is in fp8 where its component is."""
    return not _FP8_LAYERS.isdisjoint(weight.split(".")) and all(size % FP8_MULTIPLE == 0 for size in sizes)


def check_precision(value: str, component: str) -> Precision:
    """Return `value` as a Precision or raise BuildError naming the component."""
    for known in get_args(Precision):
        if value == known:
            return known
    raise BuildError(f"precision {value!r} of {component} is unknown; choose fp32, fp16, bf16, int8 or fp8.")


def component_precision(value: str, component: str) -> Precision:
    """Return what a component is asked for by its own name; BuildError where it is unknown or impossible there."""
    precision = check_precision(value, component)
    if component == VAE_DECODER and precision == "int8":
        raise BuildError(f"precision int8 of {component} is impossible: it convolves; choose fp32 or fp16.")
    if component in (VAE_DECODER, TEXT_ENCODER) and precision == "fp8":
        why = "it convolves" if component == VAE_DECODER else "no image that a build makes passes through it"
        raise BuildError(f"precision fp8 of {component} is impossible: {why}; choose fp32 or fp16.")
    if component == VAE_ENCODER and precision != "fp32":
        raise BuildError(
            f"precision {precision} of {component} is impossible: rounding would change what an edit keeps; leave it "
            f"in fp32."
        )
    return precision


def precision_of(component: str, usual: str, single: Mapping[str, str]) -> Precision:
    """Return a component's precision: its own of `single`, or the usual one.

    int8 and fp8 are for matmuls: where int8 is the usual one, the VAE decoder, which convolves, is in float32, and
    where fp8 is, in fp16. So are MLP heads then: their chain magnifies an error of fp8 too much, and on a GPU their
    few rows gain nothing. The VAE encoder is always in float32. Raises BuildError as `component_precision` does.
    """
    if component in single:
        return component_precision(single[component], component)
    precision = check_precision(usual, component)
    if component == VAE_ENCODER:
        return "fp32"
    if component == VAE_DECODER:
        return _OF_DECODERS.get(precision, precision)
    return "fp16" if precision == "fp8" and component.startswith(_MLP_HEAD) else precision


def require_runnable(precisions: Mapping[str, Precision], backend: str) -> None:
    """Raise BuildError where no device should run a bundle of these precisions: int8 is for ONNX Runtime on a CPU."""
    fp8 = next((name for name, precision in precisions.items() if precision == "fp8"), None)
    int8 = next((name for name, precision in precisions.items() if precision == "int8"), None)
    bf16 = next((name for name, precision in precisions.items() if precision == "bf16"), None)
    if int8 is not None and backend != "onnxruntime":
        raise BuildError(
            f"int8 of {int8} is for ONNX Runtime on a CPU, and the backend is {backend}; build with --fp16 or --bf16."
        )
    if int8 is not None and fp8 is not None:
        raise BuildError(
            f"{int8} in int8 runs only on a CPU and {fp8} in fp8 is for a GPU; build one of them in fp32 or fp16."
        )
    if int8 is not None and bf16 is not None:
        raise BuildError(
            f"{int8} in int8 runs only on a CPU and {bf16} in bf16 only on a GPU; build one of them in fp32 or fp16."
        )
