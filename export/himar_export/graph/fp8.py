"""Rewrites matmuls of a half-precision graph to take fp8 (e4m3) inputs and weights, for GPUs from Ada and Hopper on.

Modulations and feed-forwards are rewritten, of which a head's and a transformer's time mostly is; attention and its
matmuls stay in half precision, and float32 what is float32 there:

    y = s·r · (e4m3(x / r) · e4m3(W / s))      summed in float32

* One scale s for a weight and one, r, for an input, from the largest value observed (`calibrate`): what GPUs' matmuls
  take. Both are powers of two, so that nothing but e4m3's own rounding changes a value: 4 bits of digits from 2^-6 to
  448 units, coarser down to 2^-9. A value beyond saturates.
* Graphs for ONNX Runtime hold operators of the domain "himar" (`elementwise`): an input is rounded to fp8 by the
  operator that makes it, for a pass of its own would cost more than the matmul gains.
* Graphs for TensorRT hold QuantizeLinear and DequantizeLinear before a MatMul, which its builder makes one.

e4m3: "FP8 Formats for Deep Learning", arXiv 2209.05433; it has NaN and no infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from himar_kernels import BuildError

from .elementwise import DOMAIN, VERSION, in_fp8
from .observed import Array, Range, constant
from .precision_choice import FP8_SUFFIX, takes_fp8

LARGEST = 448.0
"""Of e4m3; a value of 464 or more would round to the next power if there were one, and saturates."""

LEAST_STEP = 2.0**-14
"""The least number of half precision with all its digits: TensorRT takes scales in the type of what is scaled."""

E4M3 = ml_dtypes.float8_e4m3fn


def step_of(largest: float) -> np.float32:
    """Return the least power of two from LEAST_STEP on of which LARGEST units hold `largest`."""
    return np.float32(2.0 ** np.ceil(np.log2(max(largest / LARGEST, LEAST_STEP))))


def quantise_weight(weight: Array) -> tuple[NDArray[np.generic], np.float32]:
    """Return e4m3 values and their scale; their product is close to `weight`."""
    step = step_of(float(np.abs(weight).max(initial=0)))
    return (weight.astype(np.float32) / step).astype(E4M3), step


def multiplied(model: ir.Model) -> dict[str, ir.Value]:
    """Return what each stored weight that would be in fp8 multiplies, by the weight's name."""
    return {_name(node): _input(node) for node in model.graph if _chosen(node)}


def rewrite_matmuls(model: ir.Model, ranges: Mapping[str, Range]) -> int:
    """Put matmuls of fp8 in the place of a half-precision graph's, in place; return how many.

    ranges: by a weight's name (`multiplied`), of what it multiplies; several weights that one here is made of have one
    input. Raises BuildError where a range is missing.
    """
    graph = model.graph
    nodes = [node for node in graph if _chosen(node)]
    fuses = any(node.domain == DOMAIN for node in graph)
    inputs: dict[ir.Value, _Input] = {}
    for node in nodes:
        x = _input(node)
        if x not in inputs:
            step = step_of(_largest(_name(node), ranges, graph.name))
            inputs[x] = _operator_input(graph, x, step, node) if fuses else _plain_input(graph, x, step, node)
        if fuses:
            _operator(graph, node, inputs[x])
        else:
            _plain(graph, node, inputs[x])
    RemoveUnusedNodesPass()(model)
    return len(nodes)


@dataclass(frozen=True)
class _Input:
    """What a matmul takes in place of its input, and the scale (only used by our operators)."""

    value: ir.Value
    step: ir.Value | None


def _chosen(node: ir.Node) -> bool:
    if node.op_type != "MatMul" or node.domain:
        return False
    weight = node.inputs[1]
    if weight is None or not weight.is_initializer() or weight.const_value is None or weight.shape is None:
        return False
    return takes_fp8(weight.name or "", weight.const_value.shape.numpy())


def _name(node: ir.Node) -> str:
    weight = node.inputs[1]
    assert weight is not None and weight.name is not None
    return weight.name


def _step_name(node: ir.Node) -> str:
    """Name the scale of a matmul's input as a weight is named: refitting may change it."""
    return f"{_name(node).removesuffix('weight')}input_step"


def _input(node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None
    return x


def _largest(weight: str, ranges: Mapping[str, Range], graph: str | None) -> float:
    layer = weight.removesuffix("weight")
    seen = [of for name, of in ranges.items() if name == weight or name.startswith(layer)]
    if not seen:
        raise BuildError(f"nothing was observed of what {weight!r} multiplies in {graph}; please report this.")
    return max(float(np.maximum(np.abs(each.low), np.abs(each.high)).max()) for each in seen)


def _operator_input(graph: ir.Graph, x: ir.Value, step: np.float32, before: ir.Node) -> _Input:
    """Let the operator that makes x make fp8; where something else reads x, it runs once more for that."""
    scale = constant(graph, _step_name(before), np.array(step))
    maker = x.producer()
    assert maker is not None
    name = in_fp8(maker.op_type) if maker.domain == DOMAIN else None
    if name is not None:
        made = ir.node(name, [*maker.inputs, scale], attributes=maker.attributes, domain=DOMAIN, version=VERSION)
        graph.insert_after(maker, made)
    else:
        made = _rounded(graph, _input(maker) if maker.op_type == "Cast" else x, scale, before)
    made.outputs[0].name = f"{x.name}_fp8"
    made.outputs[0].shape, made.outputs[0].type = x.shape, ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    return _Input(made.outputs[0], scale)


def _rounded(graph: ir.Graph, x: ir.Value, scale: ir.Value, before: ir.Node) -> ir.Node:
    """Return nodes that round x by themselves."""
    wide = ir.node("Cast", [x], attributes={"to": ir.DataType.FLOAT})
    made = ir.node("QuantizeLinear", [wide.outputs[0], scale], attributes={"output_dtype": ir.DataType.FLOAT8E4M3FN})
    graph.insert_before(before, [wide, made])
    return made


def _operator(graph: ir.Graph, node: ir.Node, given: _Input) -> None:
    """Replace a matmul by LinearFp8, whose weight is stored by rows of outputs: GPUs take both with K last."""
    values, step = _stored(graph, node, turned=True)
    made = ir.node("LinearFp8", [given.value, values, given.step, step], domain=DOMAIN, version=VERSION)
    _replace(graph, node, made)
    graph.opset_imports[DOMAIN] = VERSION


def _plain_input(graph: ir.Graph, x: ir.Value, step: np.float32, before: ir.Node) -> _Input:
    assert x.type is not None
    scale = constant(graph, _step_name(before), np.array(step, x.type.dtype.numpy()))
    zero = constant(graph, "val_fp8_zero", np.array(0, E4M3))
    rounded = ir.node("QuantizeLinear", [x, scale, zero])
    back = ir.node("DequantizeLinear", [rounded.outputs[0], scale, zero])
    graph.insert_before(before, [rounded, back])
    rounded.outputs[0].name, back.outputs[0].name = f"{x.name}_fp8", f"{x.name}_of_fp8"
    rounded.outputs[0].shape, rounded.outputs[0].type = x.shape, ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    back.outputs[0].shape, back.outputs[0].type = x.shape, x.type
    return _Input(back.outputs[0], None)


def _plain(graph: ir.Graph, node: ir.Node, given: _Input) -> None:
    """Replace a matmul's weight by e4m3 values and what makes half precision of them."""
    result = node.outputs[0]
    values, step = _stored(graph, node, turned=False)
    zero = constant(graph, "val_fp8_zero", np.array(0, E4M3))
    back = ir.node("DequantizeLinear", [values, step, zero])
    back.outputs[0].name = f"{_name(node)}_of_fp8"
    back.outputs[0].shape, back.outputs[0].type = values.shape, result.type
    made = ir.node("MatMul", [given.value, back.outputs[0]], name=node.name)
    graph.insert_before(node, back)
    _replace(graph, node, made)


def _stored(graph: ir.Graph, node: ir.Node, turned: bool) -> tuple[ir.Value, ir.Value]:
    """Return a weight's e4m3 values, by rows of outputs where `turned`, and its scale: for the latter float32."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    array = weight.const_value.numpy()
    values, step = quantise_weight(array)
    stored = constant(graph, f"{weight.name}{FP8_SUFFIX}", np.ascontiguousarray(values.T if turned else values))
    return stored, constant(graph, f"{weight.name}.step", np.array(step, np.float32 if turned else array.dtype))


def _replace(graph: ir.Graph, node: ir.Node, made: ir.Node) -> None:
    result, weight = node.outputs[0], node.inputs[1]
    assert weight is not None and weight.name is not None
    new = made.outputs[0]
    new.shape, new.type = result.shape, result.type
    graph.insert_before(node, made)
    result.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = result.name
    if not weight.uses():
        graph.initializers.pop(weight.name)
