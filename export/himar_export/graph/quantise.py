"""Rewrites a graph's matmuls to take 8-bit inputs and weights (int8), for ONNX Runtime on a CPU.

Every matmul of a component but its islands and a head's last layer becomes one of integers between float32 values:

    y = r·s · ((q - z) · Q) + b        q = round(x / r) + z,   Q = round(W / s)

* Weights have a scale s per output (W's column) and as many levels as CPUs without integer dot products take: they add
  the products of two neighbouring terms in 16 bits, so that two neighbours of one sign may be 128 together.
* Inputs have a scale r that is fixed at the build where it was observed (`fixed_scales`), and one per row, taken from
  the row when it comes, where it was not (`row_scales`). A row's result never depends on the other rows of a call: the
  same seed gives the same image at any batch size.

Attention, norms and what lies between matmuls stay float32, as do the islands (`Component.islands`).
Scales per column: "LLM.int8()", arXiv 2208.07339, section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from himar_kernels import BuildError

from .fixed_scales import Scale, carry_flaws, fixed_scale, quantised, timed_scale
from .migrate import chosen_factors, divide, divided, shares_of
from .observed import Array, Range, Timed, constant, timed
from .row_scales import RowScales

LARGEST, LARGEST_PAIR = 127, 128
"""Absolute values of a quantised weight, and of the sum of two neighbours of one sign: 255 · 128 fits in 16 bits."""

_ROUNDING = np.float32(1 + 2**-21)
"""Keeps two neighbours that are 128 together in exact arithmetic from being rounded up both."""

_KEPT, _KEPT_PER_ROW = ("final.linear.",), ("final.",)
"""First parts of the names of weights whose matmuls stay, beside the islands'; the latter with scales per row."""

_DOMAIN = "com.microsoft"


def quantise_weight(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """Return integers (in, out) and a scale per output (out); their product is close to `weight`."""
    alike = np.sign(weight[:-1]) * np.sign(weight[1:]) > 0
    pairs = np.where(alike, np.abs(weight[:-1] + weight[1:]), 0).max(axis=0, initial=0)
    scale = _ROUNDING * np.maximum(np.abs(weight).max(axis=0) / np.float32(LARGEST), pairs / np.float32(LARGEST_PAIR))
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale


def observed_values(model: ir.Model, islands: tuple[str, ...]) -> list[ir.Value]:
    """Return the values of a float32 graph whose ranges `quantise_matmuls` can use."""
    groups = _by_input(model.graph, (*islands, *_KEPT))
    sources = [timed(x) for x in groups]
    return [*groups, *(source.condition for source in sources if source is not None)]


def quantise_matmuls(model: ir.Model, islands: tuple[str, ...], ranges: Mapping[str, Range] | None = None) -> int:
    """Replace the matmuls of a float32 graph by matmuls of integers, in place; return how many.

    islands: first parts of the names of weights whose matmuls stay. ranges: of `observed_values` by name, for fixed
    scales; None for scales per row. Raises BuildError where a range is missing.
    """
    graph = model.graph
    groups = _by_input(graph, (*islands, *(_KEPT_PER_ROW if ranges is None else _KEPT)))
    if not groups:
        return 0
    writer = _Writer(graph)
    if ranges is None:
        for x, nodes in groups.items():
            for node in nodes:
                writer.per_row(x, node)
    else:
        missing = [value.name for value in observed_values(model, islands) if value.name not in ranges]
        if missing:
            raise BuildError(f"nothing was observed of {missing[0]!r} in {graph.name}; please report this.")
        scaled = {x: _scale(graph, x, nodes, ranges) for x, nodes in groups.items()}
        for x, nodes in groups.items():
            writer.fixed(scaled[x], nodes)
        carry_flaws(graph)
    graph.opset_imports[_DOMAIN] = 1
    return sum(map(len, groups.values()))


@dataclass(frozen=True)
class _Scaled:
    """A matmul's input with its scale, maybe divided already."""

    x: ir.Value
    scale: Scale
    source: Timed | None


def _by_input(graph: ir.Graph, kept: tuple[str, ...]) -> dict[ir.Value, list[ir.Node]]:
    """Return the matmuls to quantise by the value that they multiply; kept: first parts of names of others' weights."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if _is_matmul(node) and not (_weight(node).name or "").startswith(kept):
            x = node.inputs[0]
            assert x is not None
            found.setdefault(x, []).append(node)
    return found


def _scale(graph: ir.Graph, x: ir.Value, nodes: list[ir.Node], ranges: Mapping[str, Range]) -> _Scaled:
    """Choose an input's scale; move the spread of its channels into the weights where that costs no pass over it.

    The pass over a SiLU of the timestep is worth it: all modulations of a head share it.
    """
    assert x.name is not None
    seen, source, ones = ranges[x.name], timed(x), np.ones_like(ranges[x.name].high)

    def scale_by(m: Array) -> Scale:
        if source is None:
            return fixed_scale(seen, m)
        assert source.condition.name is not None and source.table.const_value is not None
        return timed_scale(source.table.const_value.numpy(), ranges[source.condition.name], m)

    weights = [_weight(node) for node in nodes]
    shares = shares_of(x, nodes)
    if (shares is None and source is None) or any(len(weight.uses()) > 1 for weight in weights):
        return _Scaled(x, scale_by(ones), source)
    m = chosen_factors(seen, [_array(each) for each in weights], lambda m: scale_by(m).step, quantise_weight)
    if m is None:
        return _Scaled(x, scale_by(ones), source)
    for weight in weights:
        weight.const_value = ir.tensor(m[:, None] * _array(weight), name=weight.name)
    if shares is not None:
        divide(shares, m)
        return _Scaled(x, scale_by(m), source)
    return _Scaled(divided(graph, x, m, nodes[0]), scale_by(m), source)


@dataclass
class _Writer:
    """Writes matmuls of integers into a graph, each weight and each input quantised once."""

    graph: ir.Graph
    weights: dict[str, tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = RowScales(self.graph)

    def fixed(self, scaled: _Scaled, nodes: list[ir.Node]) -> None:
        """Write the matmuls of an input with a fixed scale, their biases included."""
        integers, step, zero = quantised(self.graph, scaled.x, scaled.scale, scaled.source, nodes[0])
        for node in nodes:
            q, scale = self._weight(_weight(node))
            add, bias = _bias(node)
            last = node if add is None else add
            self._replace(node, last, [integers, q, step, scale, zero, *([None, bias] if bias is not None else [])])

    def per_row(self, x: ir.Value, node: ir.Node) -> None:
        """Write a matmul whose input is scaled per row."""
        rows = self.rows.of(x, node)
        q, scale = self._weight(_weight(node))
        made = self._replace(node, node, [rows.integers, q, rows.step, scale, rows.zero])
        scaled = ir.node("Mul", [made.outputs[0], rows.range])
        scaled.outputs[0].shape, scaled.outputs[0].type = made.outputs[0].shape, made.outputs[0].type
        made.outputs[0].replace_all_uses_with(scaled.outputs[0])
        scaled.replace_input_with(0, made.outputs[0])
        self.graph.insert_after(made, scaled)

    def _replace(self, node: ir.Node, last: ir.Node, inputs: list[ir.Value | None]) -> ir.Node:
        """Put a matmul of integers in the place of a matmul, and of the sum `last` where that has become its bias."""
        weight, result = _weight(node), last.outputs[0]
        made = ir.node("MatMulIntegerToFloat", inputs, domain=_DOMAIN)
        self.graph.insert_before(node, made)
        made.outputs[0].shape, made.outputs[0].type = result.shape, result.type
        result.replace_all_uses_with(made.outputs[0])
        for old in dict.fromkeys((last, node)):
            self.graph.remove(old, safe=True)
        if not weight.uses() and weight.name is not None:
            self.graph.initializers.pop(weight.name)
        return made

    def _weight(self, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return a weight's integers and scales."""
        assert weight.name is not None
        if weight.name not in self.weights:
            integers, scale = quantise_weight(_array(weight))
            self.weights[weight.name] = (
                constant(self.graph, f"{weight.name}.int8", integers),
                constant(self.graph, f"{weight.name}.scale", scale),
            )
        return self.weights[weight.name]


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


def _array(weight: ir.Value) -> Array:
    assert weight.const_value is not None
    return weight.const_value.numpy()


def _bias(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the sum of a matmul's result and a stored vector, and the vector; None where the result goes elsewhere."""
    result = node.outputs[0]
    users = [use.node for use in result.uses()]
    if len(users) != 1 or users[0].op_type != "Add" or result.is_graph_output():
        return None, None
    for value in users[0].inputs:
        if value is not None and value.is_initializer() and len(value.shape or ()) == 1:
            return users[0], value
    return None, None
