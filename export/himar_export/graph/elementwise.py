"""Writes what lies between the matmuls of a graph: norms, modulations, activations, residual sums.

In half precision, graphs for ONNX Runtime hold these as operators of the domain "himar", each a function of standard
operators that the graph carries itself. A session that knows our library (himar_kernels.build.fused_library) runs each
in one pass over memory; any other runs the functions, so the same bundle works wherever ONNX Runtime does. On a GPU
most of a half-precision head's time lies between its matmuls otherwise, and biases, which ONNX Runtime's CUDA matmuls
write out row by row beforehand, are added on the way. What modulates a block comes out of one matmul (`shared_input`),
of whose rows each operator reads its parts: attributes say which, and a function slices them out.

Everywhere else (float32, int8, TensorRT, whose builder fuses by itself) the same formulas stand in the graph.

What ends in half precision also exists with an end in fp8 (`in_fp8`), for the inputs of matmuls that `fp8` rewrites.
BiasSiluToHalf, …ToBfloat16 and …ToFp8 are a head's SiLU of its condition and the row of a timestep, both float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar.families.hi_mar.layers import EPS, plain_layer_norm

from .precision import BiasPending
from .style import GraphStyle

DOMAIN, VERSION = "himar", 1

Activation = Literal["gelu", "gelu_tanh", "silu", "quick_gelu"]
_ACTIVATIONS: Mapping[Activation, tuple[str, Callable[[Tensor], Tensor]]] = {
    "gelu": ("BiasGelu", F.gelu),
    "gelu_tanh": ("BiasGeluTanh", lambda x: F.gelu(x, approximate="tanh")),
    "silu": ("BiasSilu", F.silu),
}
_HALVES: Mapping[torch.dtype, tuple[str, int]] = {
    torch.float16: ("ToHalf", onnx.TensorProto.FLOAT16),
    torch.bfloat16: ("ToBfloat16", onnx.TensorProto.BFLOAT16),
}
"""How the names of operators end that take float32 and give half precision, and its type as ONNX counts types."""


class Norm(nn.Module):
    """LayerNorm in float32 with given affine parameters (D,)."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(weight.detach().clone().flatten(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone().flatten(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (…, D) to the same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class PlainNorm(Norm):
    """LayerNorm in float32 without affine parameters: 1 and 0 for operators that take some."""

    def __init__(self, width: int) -> None:
        super().__init__(torch.ones(width), torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (…, D) to the same."""
        return plain_layer_norm(x)


@dataclass(frozen=True)
class Elementwise:
    """The formulas between the matmuls of a graph; in a style that fuses them, they are exported as operators of ours.

    x is the float32 stream (M, D); values of matmuls are (M, D) in the style's dtype, scales, shifts and gates also
    parts of (M, count·D).
    """

    style: GraphStyle

    @property
    def _exports(self) -> bool:
        return self.style.fuses_elementwise and torch.compiler.is_exporting()

    def _fuses(self, *parts: BiasPending) -> bool:
        """Whether an operator of ours takes these; a layer that stays float32 (`fp32_layers`) gives what none does."""
        return self._exports and all(part.values.dtype == self.style.dtype for part in parts)

    def norm(self, norm: Norm, x: Tensor) -> Tensor:
        """Return norm(x), in `dtype` where it is fused, else float32."""
        if self._exports:
            return self._to_half("Norm", (x, norm.weight, norm.bias), epsilon=norm.eps)
        return norm(x)

    def modulated_norm(
        self, norm: Norm, x: Tensor, scale: BiasPending, shift: BiasPending, *, to_float: bool = False
    ) -> Tensor:
        """Return norm(x)·scale + shift, in `dtype` where it is fused and not `to_float`, else float32."""
        if self._fuses(scale, shift):
            name, dtype = ("ModulatedNormToFloat", torch.float32) if to_float else ("ModulatedNorm", self.style.dtype)
            inputs = (x, norm.weight, norm.bias, *scale.parts, *shift.parts)
            return _node(name, inputs, dtype, epsilon=norm.eps, scale_part=scale.part, shift_part=shift.part)
        return norm(x) * scale.with_bias() + shift.with_bias()

    def residual(self, x: Tensor, h: BiasPending) -> Tensor:
        """Return x + h, float32."""
        if self._fuses(h):
            return _node("Residual", (x, *h.parts), torch.float32)
        return x + h.with_bias().float()

    def gated_residual(self, x: Tensor, h: BiasPending, gate: BiasPending) -> Tensor:
        """Return x + gate·h, float32."""
        if self._fuses(h, gate):
            return _node("GatedResidual", (x, *h.parts, *gate.parts), torch.float32, gate_part=gate.part)
        return x + (gate.with_bias() * h.with_bias()).float()

    def activation(self, h: BiasPending, kind: Activation) -> Tensor:
        """Return the activation of h, in `dtype`. quick_gelu, x·σ(1.702 x), is written out: CLIP alone has it."""
        if kind == "quick_gelu":
            x = h.with_bias()
            return x * torch.sigmoid(1.702 * x)
        name, function = _ACTIVATIONS[kind]
        if self._fuses(h):
            return _node(name, h.parts, self.style.dtype)
        return function(h.with_bias())

    def silu_of_sum(self, x: Tensor, row: Tensor, readers: Iterable[nn.Module | None]) -> Tensor:
        """Return SiLU(x + row) of float32 x (…, D) and row (1, D): in `dtype` where it is fused, else float32.

        It is not where one of `readers`, the matmuls that read it, stays float32.
        """
        weights = [weight for reader in readers if reader is not None for weight in reader.parameters()]
        if self._exports and all(weight.dtype == self.style.dtype for weight in weights):
            return self._to_half("BiasSilu", (x, row.flatten()))
        return F.silu(row + x)

    def _to_half(self, name: str, inputs: Sequence[Tensor], **attributes: Any) -> Tensor:
        return _node(name + _HALVES[self.style.dtype][0], inputs, self.style.dtype, **attributes)


def _node(name: str, inputs: Sequence[Tensor], dtype: torch.dtype, **attributes: Any) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", inputs, attributes, dtype=dtype, shape=inputs[0].shape, version=VERSION
    )


def join_sums_and_norms(model: onnx.ModelProto) -> None:
    """Make one operator of every residual sum and the norm that follows it: the norm need not read what was summed.

    The operator has the names of both, gives the sum and the norm, and stands where the norm stood.
    """
    nodes = list(model.graph.node)
    places = {name: place for place, node in enumerate(nodes) for name in node.output}
    users: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            users.setdefault(name, []).append(place)
    joined = set()
    for place, norm in enumerate(nodes):
        if norm.domain != DOMAIN or "Norm" not in norm.op_type:
            continue
        before = places.get(norm.input[0])
        if before is None or norm.op_type not in _JOINED.get(nodes[before].op_type, ()):
            continue
        if min(users[norm.input[0]]) != place:  # the sum is needed before its norm
            continue
        total = nodes[before]
        joined.add(before)
        norm.op_type = total.op_type + norm.op_type
        inputs, outputs = [*total.input, *norm.input[1:]], [*total.output, *norm.output]
        del norm.input[:], norm.output[:]
        norm.input.extend(inputs)
        norm.output.extend(outputs)
        norm.attribute.extend(total.attribute)
    del model.graph.node[:]
    model.graph.node.extend(node for place, node in enumerate(nodes) if place not in joined)


def add_functions(model: onnx.ModelProto, dtype: torch.dtype) -> None:
    """Give a graph the functions that define the operators of ours in it, or in the functions that it has.

    dtype: of its matmuls.
    """
    given = {function.name for function in model.functions}
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    used = {node.op_type for node in nodes if node.domain == DOMAIN} - given
    functions = _functions(half_type(dtype)) if used else {}
    model.functions.extend(onnx.parser.parse_function(functions[name]) for name in sorted(used))


def half_type(dtype: torch.dtype) -> int:
    """Return the type of a graph's matmuls as ONNX counts types."""
    return _HALVES[dtype][1]


def in_fp8(operator: str) -> str | None:
    """Return the operator like `operator` that gives fp8 and takes the scale last; None where there is none."""
    name = operator.removesuffix("ToHalf") + "ToFp8"
    return name if name in _NORMS or name.removesuffix("ToFp8") in _ACTIVATED else None


@dataclass(frozen=True)
class _Formula:
    """A function's body: its inputs after x, its lines in ONNX's textual syntax, and the value that they end with.

    In the lines {x} stands for the name of x, {half} for the type of matmuls, and @name for an attribute's value.
    """

    inputs: str
    lines: str
    end: str

    def function(self, name: str, half: int, before: _Formula | None = None) -> str:
        """Return the function; `before` is a sum whose end is this one's x."""
        inputs = f"x, {before.inputs}, {self.inputs}" if before else f"x, {self.inputs}"
        ends = f"{before.end}, {self.end}" if before else self.end
        x = before.end if before else "x"
        lines = f"{before.lines if before else ''}\n{self.lines}".replace("{half}", str(half)).replace("{x}", x)
        attributes = ", ".join(sorted(set(re.findall(r"@(\w+)", lines))))
        head = f"{name} <{attributes}>" if attributes else name
        return f'<domain: "{DOMAIN}", opset_import: ["" : 23]>\n{head} ({inputs}) => ({ends}) {{ {lines} }}'


def _part(name: str, width_of: str) -> str:
    """Return the lines that make half_NAME, NAME with its bias, of the part that NAME_part says.

    width_of: what is as wide as a part.
    """
    return f"""{name}_width = Shape ({width_of})
        {name}_place = Constant <value_int: int = @{name}_part> ()
        {name}_first = Mul ({name}_place, {name}_width)
        {name}_end = Add ({name}_first, {name}_width)
        {name}_axis = Constant <value_ints = [-1]> ()
        {name}_values = Slice ({name}, {name}_first, {name}_end, {name}_axis)
        {name}_added = Slice ({name}_bias, {name}_first, {name}_end, {name}_axis)
        half_{name} = Add ({name}_values, {name}_added)"""


_WIDE = onnx.TensorProto.FLOAT
_SUMS: Mapping[str, _Formula] = {
    "Residual": _Formula(
        "h, h_bias",
        f"""biased = Add (h, h_bias)
        wide = Cast <to = {_WIDE}> (biased)
        total = Add (x, wide)""",
        "total",
    ),
    "GatedResidual": _Formula(
        "h, h_bias, gate, gate_bias",
        f"""biased = Add (h, h_bias)
        {_part("gate", "h_bias")}
        gated = Mul (half_gate, biased)
        wide = Cast <to = {_WIDE}> (gated)
        total = Add (x, wide)""",
        "total",
    ),
}
_NORMAL = "normal = LayerNormalization <axis = -1, epsilon: float = @epsilon> ({x}, weight, bias)"
_MODULATION = "weight, bias, scale, scale_bias, shift, shift_bias"
_MODULATED = f"""{_NORMAL}
        {_part("scale", "weight")}
        wide_scale = Cast <to = {_WIDE}> (half_scale)
        {_part("shift", "weight")}
        wide_shift = Cast <to = {_WIDE}> (half_shift)
        scaled = Mul (normal, wide_scale)
        shifted = Add (scaled, wide_shift)"""
_NORM = _Formula("weight, bias", f"{_NORMAL}\ny = Cast <to = {{half}}> (normal)", "y")


def _to_fp8(inputs: str, lines: str, value: str) -> _Formula:
    """Return the formula whose float32 `value` becomes fp8 in units of `step`; infinity becomes NaN, not the most."""
    return _Formula(
        f"{inputs}, step",
        f"""{lines}
        nothing = Sub ({value}, {value})
        sound = Add ({value}, nothing)
        y = QuantizeLinear <output_dtype = {onnx.TensorProto.FLOAT8E4M3FN}> (sound, step)""",
        "y",
    )


_NORMS: Mapping[str, _Formula] = {
    "NormToHalf": _NORM,
    "NormToBfloat16": _NORM,
    "ModulatedNorm": _Formula(_MODULATION, f"{_MODULATED}\ny = Cast <to = {{half}}> (shifted)", "y"),
    "ModulatedNormToFloat": _Formula(_MODULATION, _MODULATED, "shifted"),
    "NormToFp8": _to_fp8("weight, bias", _NORMAL, "normal"),
    "ModulatedNormToFp8": _to_fp8(_MODULATION, _MODULATED, "shifted"),
}
_JOINED: Mapping[str, tuple[str, ...]] = {
    "Residual": ("NormToHalf", "NormToBfloat16", "NormToFp8"),
    "GatedResidual": ("ModulatedNorm", "ModulatedNormToFloat", "ModulatedNormToFp8"),
}
"""Which norms follow which sums: a transformer's, and a head's."""
_BIASED = "biased = Add (x, h_bias)"
_ACTIVATED: Mapping[str, str] = {
    "BiasGelu": f"{_BIASED}\nvalue = Gelu (biased)",
    "BiasGeluTanh": f'{_BIASED}\nvalue = Gelu <approximate = "tanh"> (biased)',
    "BiasSilu": f"{_BIASED}\ngate = Sigmoid (biased)\nvalue = Mul (biased, gate)",
}

_LINEAR = _Formula(
    "weight, step, weight_step",
    f"""wide_x = Cast <to = {_WIDE}> (x)
        wide_weight = Cast <to = {_WIDE}> (weight)
        columns = Transpose <perm = [1, 0]> (wide_weight)
        product = MatMul (wide_x, columns)
        unit = Mul (step, weight_step)
        wide = Mul (product, unit)
        y = Cast <to = {{half}}> (wide)""",
    "y",
)
"""x · weightᵀ of fp8 values, summed in float32, then times both scales; no pair of QuantizeLinear and DequantizeLinear,
around which ONNX Runtime 1.31 puts an operator for integers (a graph that it then refuses)."""


def _functions(half: int) -> dict[str, str]:
    """Return every operator's function by name. half: the type of matmuls, as ONNX counts types."""
    alone = {**_SUMS, **_NORMS, "LinearFp8": _LINEAR}
    for name, lines in _ACTIVATED.items():
        alone[name] = _Formula("h_bias", lines, "value")
        alone[f"{name}ToFp8"] = _to_fp8("h_bias", f"{lines}\nwide = Cast <to = {_WIDE}> (value)", "wide")
    rounded = _Formula("h_bias", f"{_ACTIVATED['BiasSilu']}\ny = Cast <to = {{half}}> (value)", "y")
    alone |= {f"BiasSilu{end}": rounded for end, _ in _HALVES.values()}
    functions = {name: formula.function(name, half) for name, formula in alone.items()}
    for first, norms in _JOINED.items():
        functions |= {first + name: _NORMS[name].function(first + name, half, _SUMS[first]) for name in norms}
    return functions
