"""Makes one operator of a matmul and what follows it, where our library's can do both in one pass.

On a GPU the operator calls cuBLASLt, which adds a bias, applies GELU or adds to the float32 stream before it writes a
result. Each is a function of standard operators and of those in `elementwise`, so a session whose library has no linear
layers runs the matmul and what followed it, as if they had not been joined.

Which places gain was counted in bytes for each value of the result, in half precision:

* GELU, tanh form: the matmul writes 2, BiasGeluTanh reads 2 and writes 2; joined 2 are written: 4 fewer. cuBLASLt has
  no other GELU: the erf form stays a pass of its own.
* The same in fp8: LinearFp8 writes 2, BiasGeluTanhToFp8 reads 2 and writes 1; joined 1 is written: 4 fewer of 5.
* A bias alone: likewise 4 fewer.
* A residual sum that no norm follows: the matmul writes 2, Residual reads 4 + 2 and writes 4, 12 in all; joined, 4 are
  read and 4 written: 4 fewer.
* A residual sum and its norm: the matmul writes 2, the operator of both reads 4 + 2 and writes 4 + 2: 14. A matmul that
  adds to the stream reads 4 and writes 4, its norm reads 4 and writes 2: 14 as well, and float32 results cost a matmul
  more than half ones do. They stay as `join_sums_and_norms` made them; so do gated sums.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch

from .elementwise import DOMAIN, VERSION, half_type

_FUNCTIONS: Mapping[str, str] = {
    "Linear": """(x, weight, bias) => (y) {
        product = MatMul (x, weight)
        y = Add (product, bias)
    }""",
    "LinearGeluTanh": """(x, weight, bias) => (y) {
        product = MatMul (x, weight)
        y = {domain}.BiasGeluTanh (product, bias)
    }""",
    "LinearGeluTanhFp8": """(x, weight, step, weight_step, bias, made_step, made_inverse) => (y) {
        given = Identity (x)
        matrix = Identity (weight)
        product = {domain}.LinearFp8 (given, matrix, step, weight_step)
        y = {domain}.BiasGeluTanhToFp8 (product, bias, made_step)
    }""",
    "LinearResidual": """(h, weight, bias, x) => (total) {
        product = MatMul (h, weight)
        half_bias = Cast <to = {half}> (bias)
        total = {domain}.Residual (x, product, half_bias)
    }""",
}
"""Bodies by name. The bias of LinearResidual is float32, as cuBLASLt wants one that is added to float32 results; of
LinearGeluTanhFp8 the result's scale is given as it is and as its inverse, by which cuBLASLt multiplies. ONNX Runtime
1.31 refuses fp8 that only another function reads, hence its Identity
(`findings/onnxruntime-float8-into-a-nested-function.sh`)."""


def join_linear_layers(model: onnx.ModelProto, dtype: torch.dtype) -> None:
    """Make operators of matmuls and what follows them, and give the graph their functions; `dtype`: of its matmuls.

    To be called when sums and norms are joined, and before `add_functions`, which adds what these functions call.
    """
    graph, half = model.graph, half_type(dtype)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == half}
    products = {node.output[0]: node for node in graph.node if _is_product(node, shapes)}
    read = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    nodes: list[onnx.NodeProto] = []
    joined: set[str] = set()
    made_already: set[str] = set()
    for node in graph.node:
        found = next((name for name in node.input if name in products and read.count(name) == 1), None)
        made = [] if found is None else _joined(products[found], node, found, shapes)
        if found is not None and made:
            joined.add(found)
        nodes += [each for each in made or [node] if each.output[0] not in made_already]
        made_already |= {each.output[0] for each in made}
    del graph.node[:]
    graph.node.extend(node for node in nodes if node.output[0] not in joined)
    if joined and all(each.domain != DOMAIN for each in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    for name in sorted({node.op_type for node in graph.node if node.domain == DOMAIN} & set(_FUNCTIONS)):
        body = _FUNCTIONS[name].replace("{half}", str(half)).replace("{domain}", DOMAIN)
        sets = f'["" : 23, "{DOMAIN}" : 1]' if DOMAIN in body else '["" : 23]'
        model.functions.append(onnx.parser.parse_function(f'<domain: "{DOMAIN}", opset_import: {sets}>\n{name} {body}'))


def _is_product(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether it multiplies by a matrix of weights in half precision, or in fp8."""
    if node.domain == DOMAIN:
        return node.op_type == "LinearFp8"
    return node.op_type == "MatMul" and not node.domain and len(shapes.get(node.input[1], ())) == 2


def _joined(
    product: onnx.NodeProto, after: onnx.NodeProto, name: str, shapes: Mapping[str, tuple[int, ...]]
) -> list[onnx.NodeProto]:
    """Return the nodes that do what both do; none where no operator does."""
    if product.domain == DOMAIN:
        if after.op_type != "BiasGeluTanhToFp8":
            return []
        _, bias, step = after.input
        inverse = f"{step}_inverse"
        reciprocal = onnx.helper.make_node("Reciprocal", [step], [inverse], name=inverse)
        return [reciprocal, _node("LinearGeluTanhFp8", [*product.input, bias, step, inverse], after)]
    x, weight = product.input
    if after.domain == DOMAIN and after.op_type == "BiasGeluTanh":
        return [_node("LinearGeluTanh", [x, weight, after.input[1]], after)]
    if after.domain == DOMAIN and after.op_type == "Residual" and after.input[1] == name:
        total, _, bias = after.input
        wide = f"{bias}_float"
        cast = onnx.helper.make_node("Cast", [bias], [wide], name=wide, to=onnx.TensorProto.FLOAT)
        return [cast, _node("LinearResidual", [x, weight, wide, total], after)]
    if not after.domain and after.op_type == "Add":
        bias = next(each for each in after.input if each != name)
        if shapes.get(bias) == shapes[weight][1:]:
            return [_node("Linear", [x, weight, bias], after)]
    return []


def _node(kind: str, inputs: list[str], after: onnx.NodeProto) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, inputs, list(after.output), name=after.name, domain=DOMAIN)
