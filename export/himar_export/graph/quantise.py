"""Rewrites a graph's matmuls to take 8-bit inputs and weights (int8), for ONNX Runtime on a CPU.

Every matmul of a component but its islands and a head's last layer becomes one of integers between float32 values:

    y = r · s · ((q - z) · Q)        q = round(127/r · x) + z,   Q = round(W / s)

* Weights have a scale s per output (W's column), its largest value / 64. So they take seven of eight bits: on CPUs
  without integer dot products two neighbouring terms are added in 16 bits, and 2 · 255 · 64 still fits.
* Inputs have a scale r per row, taken from the row when it comes. A row's result therefore never depends on the
  other rows of a call: the same seed gives the same image at any batch size. What is scaled is known at export: the
  results of SiLU and GELU are hardly negative, so their zero z stands low and their scale is the finer one.

Biases, attention, norms and what lies between matmuls stay float32, as do the islands (`Component.islands`).
NaN would become an integer like any other value; so that it is not lost, r is the row's range plus 0 · its sum, which
is NaN where the row has one.
Scales per row and per column: "LLM.int8()", arXiv 2208.07339, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

WEIGHT_LEVELS = 64
"""Largest absolute value of a quantised weight."""

MIDDLE, LOW = 128, 32
"""Where the zero of a row's 256 levels stands: for values of both signs, and for results of SiLU and GELU."""

_KEPT = ("final.",)
"""First parts of the names of weights whose matmuls stay, beside the islands'."""

_DOMAIN = "com.microsoft"
_LEAST_RANGE = np.float32(1e-30)
"""Instead of a row's range where all its values are 0."""


def quantise_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return integers (in, out), -64 to 64, and a scale per output (out); their product is close to `weight`."""
    scale = np.abs(weight).max(axis=0) / np.float32(WEIGHT_LEVELS)
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale


def quantise_matmuls(model: ir.Model, islands: tuple[str, ...]) -> int:
    """Replace the matmuls of a float32 graph by matmuls of integers, in place; return how many.

    islands: first parts of the names of weights whose matmuls stay.
    """
    graph, inputs, weights = model.graph, _Inputs(model.graph), _Weights(model.graph)
    kept = (*islands, *_KEPT)
    chosen = [node for node in graph if _is_matmul(node) and not (_weight(node).name or "").startswith(kept)]
    for node in chosen:
        weight, result = _weight(node), node.outputs[0]
        integers, scale = weights.of(weight)
        x = inputs.of(node.inputs[0], node)
        step, zero = inputs.levels(x.zero)
        product = ir.node("MatMulIntegerToFloat", [x.integers, integers, step, scale, zero], domain=_DOMAIN)
        scaled = ir.node("Mul", [product.outputs[0], x.range])
        graph.insert_before(node, [product, scaled])
        scaled.outputs[0].shape, scaled.outputs[0].type = result.shape, result.type
        result.replace_all_uses_with(scaled.outputs[0])
        graph.remove(node, safe=True)
        if not weight.uses() and weight.name is not None:
            graph.initializers.pop(weight.name)
    if chosen:
        graph.opset_imports[_DOMAIN] = 1
    return len(chosen)


@dataclass(frozen=True)
class _Quantised:
    """A quantised value: its integers, the range of each row (…, 1), and where its zero stands."""

    integers: ir.Value
    range: ir.Value
    zero: int


@dataclass
class _Weights:
    """The weights of a graph's matmuls, each quantised once, however many matmuls use it."""

    graph: ir.Graph
    done: dict[str, tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def of(self, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return a weight's integers and scales."""
        assert weight.name is not None and weight.const_value is not None
        if weight.name not in self.done:
            integers, scale = quantise_weight(weight.const_value.numpy())
            self.done[weight.name] = (
                _initializer(self.graph, f"{weight.name}.int8", integers),
                _initializer(self.graph, f"{weight.name}.scale", scale),
            )
        return self.done[weight.name]


@dataclass
class _Inputs:
    """The inputs of a graph's matmuls, each quantised once, where it is first needed."""

    graph: ir.Graph
    done: dict[str, _Quantised] = field(default_factory=dict)

    def of(self, x: ir.Value | None, before: ir.Node) -> _Quantised:
        """Return a value quantised by nodes that stand before the node that needs it."""
        assert x is not None and x.name is not None
        if x.name not in self.done:
            self.done[x.name] = self._quantise(x, before)
        return self.done[x.name]

    def levels(self, zero: int) -> tuple[ir.Value, ir.Value]:
        """Return step and zero of integers whose values lie in -1 … 1."""
        step = np.float32(1 / (255 - zero))
        return self._constant(f"val_int8_step{zero}", step), self._constant(f"val_int8_zero{zero}", np.uint8(zero))

    def _quantise(self, x: ir.Value, before: ir.Node) -> _Quantised:
        zero = LOW if _hardly_negative(x) else MIDDLE
        last = self._constant("val_int8_last_axis", np.array([-1], np.int64))
        least = self._constant("val_int8_least", _LEAST_RANGE)
        # A negative value may be zero/(255-zero) of the range at most.
        room = self._constant(f"val_int8_room{zero}", np.float32(-(255 - zero) / zero))
        nothing = self._constant("val_int8_nothing", np.float32(0))
        high, low, total = (
            ir.node(name, [x, last], attributes={"keepdims": 1}) for name in ("ReduceMax", "ReduceMin", "ReduceSum")
        )
        below = ir.node("Mul", [low.outputs[0], room])
        spread = ir.node("Max", [high.outputs[0], below.outputs[0], least])
        normal = ir.node("Div", [x, spread.outputs[0]])
        integers = ir.node("QuantizeLinear", [normal.outputs[0], *self.levels(zero)])
        # Comparisons skip NaN; a sum does not.
        flaw = ir.node("Mul", [total.outputs[0], nothing])
        span = ir.node("Add", [spread.outputs[0], flaw.outputs[0]])
        self.graph.insert_before(before, [high, low, total, below, spread, normal, integers, flaw, span])
        return _Quantised(integers.outputs[0], span.outputs[0], zero)

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> ir.Value:
        return self.graph.initializers.get(name) or _initializer(self.graph, name, np.asarray(value))


def _initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _is_matmul(node: ir.Node) -> bool:
    """Whether a node multiplies by a stored matrix."""
    if node.op_type != "MatMul" or node.domain:
        return False
    weight = node.inputs[1]
    return weight is not None and weight.is_initializer() and len(weight.shape or ()) == 2


def _weight(node: ir.Node) -> ir.Value:
    weight = node.inputs[1]
    assert weight is not None
    return weight


def _hardly_negative(x: ir.Value) -> bool:
    """Whether a value comes out of SiLU (≥ -0.28) or GELU (≥ -0.17)."""
    node = x.producer()
    if node is None:
        return False
    factors = [each.producer() for each in node.inputs if each is not None] if node.op_type == "Mul" else []
    return node.op_type == "Gelu" or any(each is not None and each.op_type == "Sigmoid" for each in factors)
