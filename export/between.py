"""What lies between the products of a graph: norms, modulations, activations, residual sums.

In half precision, graphs for ONNX Runtime hold these as operators of the domain "himar", each a function of standard
operators that the graph carries itself. A session that knows our library (himar_kernels.fused_library) runs each in one
pass over memory; any other runs the functions, so the same bundle works wherever ONNX Runtime does. On a GPU most of a
half-precision head's time lies between its products otherwise, and biases, which ONNX Runtime's CUDA products write
out row by row beforehand, are added on the way.

Everywhere else (float32, int8, TensorRT, whose builder fuses by itself) the same formulas stand in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar.layers import EPS, plain_layer_norm

from .precision import Unfinished

DOMAIN, VERSION = "himar", 1

Activation = Literal["gelu", "gelu_tanh", "silu"]
_ACTIVATIONS: Mapping[Activation, tuple[str, Callable[[Tensor], Tensor]]] = {
    "gelu": ("BiasGelu", F.gelu),
    "gelu_tanh": ("BiasGeluTanh", lambda x: F.gelu(x, approximate="tanh")),
    "silu": ("BiasSilu", F.silu),
}
_HALVES: Mapping[torch.dtype, tuple[str, int]] = {
    torch.float16: ("NormToHalf", onnx.TensorProto.FLOAT16),
    torch.bfloat16: ("NormToBfloat16", onnx.TensorProto.BFLOAT16),
}


class Norm(nn.Module):
    """LayerNorm in float32 with given affine parameters (D,)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone().flatten(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone().flatten(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (…, D) to the same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPS)


class PlainNorm(Norm):
    """LayerNorm in float32 without affine parameters: 1 and 0 for operators that take some."""

    def __init__(self, width: int) -> None:
        super().__init__(torch.ones(width), torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (…, D) to the same."""
        return plain_layer_norm(x)


@dataclass(frozen=True)
class Between:
    """The formulas between products whose type is `dtype`; fused: as operators of ours where a graph is exported.

    x is the float32 stream (M, D); values of products are (M, D) in `dtype`.
    """

    dtype: torch.dtype
    fused: bool

    @classmethod
    def of(cls, dtype: torch.dtype, merged: bool) -> Between:
        """Return what suits a graph: `merged` ones are TensorRT's."""
        return cls(dtype, dtype in _HALVES and not merged)

    @property
    def _exports(self) -> bool:
        return self.fused and torch.compiler.is_exporting()

    def norm(self, norm: Norm, x: Tensor) -> Tensor:
        """Return norm(x), in `dtype` where it is fused, else float32."""
        if self._exports:
            return _node(_HALVES[self.dtype][0], (x, norm.weight, norm.bias), self.dtype, epsilon=EPS)
        return norm(x)

    def modulated_norm(
        self, norm: Norm, x: Tensor, scale: Unfinished, shift: Unfinished, *, to_float: bool = False
    ) -> Tensor:
        """Return norm(x)·scale + shift, in `dtype` where it is fused and not `to_float`, else float32."""
        if self._exports:
            name, dtype = ("ModulatedNormToFloat", torch.float32) if to_float else ("ModulatedNorm", self.dtype)
            return _node(name, (x, norm.weight, norm.bias, *scale.parts, *shift.parts), dtype, epsilon=EPS)
        return norm(x) * scale.finished() + shift.finished()

    def residual(self, x: Tensor, h: Unfinished) -> Tensor:
        """Return x + h, float32."""
        if self._exports:
            return _node("Residual", (x, *h.parts), torch.float32)
        return x + h.finished().float()

    def gated_residual(self, x: Tensor, h: Unfinished, gate: Unfinished) -> Tensor:
        """Return x + gate·h, float32."""
        if self._exports:
            return _node("GatedResidual", (x, *h.parts, *gate.parts), torch.float32)
        return x + (gate.finished() * h.finished()).float()

    def activation(self, h: Unfinished, kind: Activation) -> Tensor:
        """Return the activation of h, in `dtype`."""
        name, function = _ACTIVATIONS[kind]
        if self._exports:
            return _node(name, h.parts, self.dtype)
        return function(h.finished())


def _node(name: str, inputs: Sequence[Tensor], dtype: torch.dtype, **attributes: Any) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", inputs, attributes, dtype=dtype, shape=inputs[0].shape, version=VERSION
    )


def add_functions(model: onnx.ModelProto, dtype: torch.dtype) -> None:
    """Give a graph the functions that define the operators of ours in it; `dtype` is that of its products."""
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    if used:
        texts = _functions(_HALVES[dtype][1])
        model.functions.extend(onnx.parser.parse_function(texts[name]) for name in sorted(used))


def _functions(half: int) -> dict[str, str]:
    """Return the functions by name, in ONNX's textual syntax. half: the type of products, as ONNX counts types."""
    normal = "normal = LayerNormalization <axis = -1, epsilon: float = @epsilon> (x, weight, bias)"
    modulated = f"""{normal}
        half_scale = Add (scale, scale_bias)
        wide_scale = Cast <to = 1> (half_scale)
        half_shift = Add (shift, shift_bias)
        wide_shift = Cast <to = 1> (half_shift)
        scaled = Mul (normal, wide_scale)"""
    modulation = "x, weight, bias, scale, scale_bias, shift, shift_bias"
    bodies = {
        "NormToHalf": ("<epsilon>", "x, weight, bias", f"{normal}\ny = Cast <to = {half}> (normal)"),
        "ModulatedNorm": (
            "<epsilon>",
            modulation,
            f"{modulated}\nsum = Add (scaled, wide_shift)\ny = Cast <to = {half}> (sum)",
        ),
        "ModulatedNormToFloat": ("<epsilon>", modulation, f"{modulated}\ny = Add (scaled, wide_shift)"),
        "Residual": ("", "x, h, bias", "biased = Add (h, bias)\nwide = Cast <to = 1> (biased)\ny = Add (x, wide)"),
        "GatedResidual": (
            "",
            "x, h, bias, gate, gate_bias",
            "biased = Add (h, bias)\nhalf_gate = Add (gate, gate_bias)\ngated = Mul (half_gate, biased)\n"
            "wide = Cast <to = 1> (gated)\ny = Add (x, wide)",
        ),
        "BiasGelu": ("", "h, bias", "biased = Add (h, bias)\ny = Gelu (biased)"),
        "BiasGeluTanh": ("", "h, bias", 'biased = Add (h, bias)\ny = Gelu <approximate = "tanh"> (biased)'),
        "BiasSilu": ("", "h, bias", "biased = Add (h, bias)\ngate = Sigmoid (biased)\ny = Mul (biased, gate)"),
    }
    bodies["NormToBfloat16"] = bodies["NormToHalf"]
    return {
        name: f'<domain: "{DOMAIN}", opset_import: ["" : 23]>\n{name} {attributes} ({inputs}) => (y) {{ {body} }}'
        for name, (attributes, inputs, body) in bodies.items()
    }
