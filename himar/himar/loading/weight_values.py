"""Converts the numbers of a checkpoint to float32, from every type that weights are stored in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from himar_kernels import CheckpointError

_FLOAT8 = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, *_FLOAT8)
_SCALES = ("weight_scale", "scale_weight", "weight_scale_inv")
_OF_ACTIVATIONS = ("input_scale", "scale_input")
_MARK = "scaled_fp8"


def as_float32(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights as dense float32 tensors on the CPU.

    float8 weights with a scale beside them ("X.weight" and "X.weight_scale") are multiplied by it: one number, or one
    per output, as (O), (O, 1) or (O, 1, 1, 1). Scales of activations are left out.
    Raises CheckpointError for values that are not finite, not floating-point, quantised, sparse or without data, and
    for scales of another shape.
    """
    state = _scaled(state, path)
    values = {}
    for name, tensor in state.items():
        if tensor.is_meta:
            raise CheckpointError(f"{path}: {name} has no values, only a shape; save the model with its weights.")
        if tensor.layout != torch.strided or tensor.is_quantized:
            kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise CheckpointError(f"{path}: {name} is {kind}; save the weights as plain tensors of floats.")
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"{path}: {name} has dtype {tensor.dtype}; weights are floating-point: float64 to float8."
            )
        values[name] = tensor.detach().to(torch.float32)
        require_finite(name, values[name], path)
    return values


def require_finite(name: str, tensor: Tensor, path: Path) -> None:
    """Raise CheckpointError when weights hold NaN or infinity: every image of such a model would be noise."""
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name} holds values that are not finite; take another checkpoint.")


def _scaled(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Multiply float8 weights by the scales that stand beside them, and leave the scales out."""
    plain = dict(state)
    for name, weight in state.items():
        stem, _, leaf = name.rpartition(".")
        if weight.dtype not in _FLOAT8:
            if name == _MARK:
                plain.pop(name)
            continue
        if leaf == _MARK or name == _MARK:
            plain.pop(name)
            continue
        beside = [f"{name}_scale", f"{name}_scale_inv", *(f"{stem}.{kind}" for kind in _SCALES)]
        scales = [other for other in dict.fromkeys(beside) if other in state]
        for other in (f"{stem}.{kind}" for kind in _OF_ACTIVATIONS):
            plain.pop(other, None)
        if scales:
            for scale in scales:
                plain.pop(scale)
            plain[name] = weight.to(torch.float32) * _spread(state[scales[0]], weight, scales[0], path)
    return plain


def _spread(scale: Tensor, weight: Tensor, name: str, path: Path) -> Tensor:
    """Return a scale in a shape that multiplies its weight's outputs."""
    outputs = weight.shape[0] if weight.ndim else 1
    per_output = scale.numel() == outputs and scale.ndim >= 1 and scale.shape[0] == outputs
    if scale.numel() != 1 and not per_output:
        raise CheckpointError(
            f"{path}: {name} has shape {tuple(scale.shape)} for a weight of {tuple(weight.shape)}; himar reads one "
            f"scale per float8 weight or per output: save the weights in bfloat16."
        )
    spread = scale.to(torch.float32).reshape(-1, *[1] * max(weight.ndim - 1, 0))
    return spread if weight.ndim else spread.reshape(())
