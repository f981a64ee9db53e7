"""Counts what an exported graph's nodes do and move in one call, each by itself, for sizes that are given.

`cost` counts what a network has to move at least; here every node reads its inputs from memory and writes its outputs,
as runtimes do that fuse no more than the graph says. So two ways to write a graph can be compared without running them.
Views (Reshape and the like) move nothing. What depends on weights or on shapes alone is not counted either: runtimes
compute it once, or on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from himar_kernels import InputError

from ..graph.attention import ORT_DOMAIN
from ..graph.elementwise import DOMAIN
from .cost import Peaks, Work

Kind = Literal["matmul", "attention", "elementwise", "copies"]
KINDS: tuple[Kind, ...] = ("matmul", "attention", "elementwise", "copies")

_MATMULS = ("MatMul", "Gemm")
_ATTENTIONS = ("Attention", "MultiHeadAttention")
_COPIES = ("Cast", "Concat", "Expand", "Gather", "Pad", "Slice", "Split", "Tile", "Transpose")
_VIEWS = ("Constant", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze")
_PARTS = ("gate_part", "scale_part", "shift_part")


Value = tuple[tuple[int, ...], int]
"""Shape, and bytes of an element."""


@dataclass(frozen=True)
class NodeTraffic:
    """What one node does in a call.

    kind: what it is; operator: its type, of a matmul with the sizes of its matrix; item: bytes of a value that it
    multiplies, 4, 2, or 1 in fp8; work: what it does, weights being constants that it reads.
    """

    name: str
    operator: str
    kind: Kind
    item: int
    work: Work


@dataclass(frozen=True)
class OperatorTraffic:
    """All nodes of an operator: how many, their work, and the sum of what each takes at least, in seconds."""

    kind: Kind
    operator: str
    nodes: int
    work: Work
    seconds: float


def graph_traffic(model: onnx.ModelProto, sizes: Mapping[str, int]) -> tuple[NodeTraffic, ...]:
    """Return what every counted node of a graph does, in the graph's order.

    sizes: of the dynamic axes of its inputs. Raises InputError for an axis without a size and for a node whose shapes
    do not follow from them.
    """
    values = _values(model, sizes)
    constants = {tensor.name for tensor in model.graph.initializer}
    fixed = set(constants)  # of constants and of shapes alone
    found = []
    for place, node in enumerate(model.graph.node):
        inputs = [name for name in node.input if name]
        if node.op_type in ("Constant", "Shape", "Size") or all(name in fixed for name in inputs):
            fixed.update(node.output)
        elif node.op_type not in _VIEWS or node.domain:
            found.append(_traffic(node, node.name or f"{node.op_type} {place}", values, constants))
    return tuple(found)


def traffic_by_operator(nodes: Iterable[NodeTraffic], peaks: Mapping[int, Peaks]) -> tuple[OperatorTraffic, ...]:
    """Return the sums of every operator, by kind, then by bytes, most first.

    peaks: what the device does with values of 4, 2 and 1 bytes: float32, half precision, fp8.
    """
    sums: dict[tuple[Kind, str], OperatorTraffic] = {}
    for node in nodes:
        key = node.kind, node.operator
        before = sums.get(key, OperatorTraffic(*key, 0, Work(), 0.0))
        seconds = before.seconds + peaks.get(node.item, peaks[4]).seconds(node.work)
        sums[key] = OperatorTraffic(*key, before.nodes + 1, before.work + node.work, seconds)
    return tuple(sorted(sums.values(), key=lambda each: (KINDS.index(each.kind), -each.work.bytes)))


def _values(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Mapping[str, Value]:
    """Return shape and bytes of an element of every value whose shape is known."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.value_info[:]
    for given in plain.graph.input:
        for size in given.type.tensor_type.shape.dim:
            if size.dim_param and size.dim_param not in sizes:
                raise InputError(f"the graph's axis {size.dim_param!r} has no size; give {size.dim_param}=SIZE.")
            if size.dim_param:
                size.dim_value = sizes[size.dim_param]
    for result in plain.graph.output:
        result.type.tensor_type.ClearField("shape")
    for node in plain.graph.node:  # the onnx package does not know ONNX Runtime's operators
        if node.domain == ORT_DOMAIN and node.op_type in _ATTENTIONS:
            node.domain, node.op_type = "", "Identity"
            del node.input[1:], node.attribute[:]
    inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True).graph
    found = {tensor.name: (tuple(tensor.dims), _bytes(tensor.data_type)) for tensor in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        tensor_type = value.type.tensor_type
        if tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in tensor_type.shape.dim):
            shape = tuple(size.dim_value for size in tensor_type.shape.dim)
            found[value.name] = shape, _bytes(tensor_type.elem_type)
    return found


def _bytes(element: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(element).itemsize)


def _traffic(node: onnx.NodeProto, name: str, values: Mapping[str, Value], constants: set[str]) -> NodeTraffic:
    for each in (*node.input, *node.output):
        if each and each not in values:
            raise InputError(
                f"the shape of {each!r} at the node {name} ({node.op_type}) does not follow from the sizes."
            )
    width = values[node.input[0]][0][-1] if any(a.name in _PARTS for a in node.attribute) else None

    def size(value: str) -> int:
        """Bytes of a value; of one that holds several parts side by side, those of a part."""
        shape, element = values[value]
        if width is not None and shape and shape[-1] != width:
            shape = (*shape[:-1], width)
        return math.prod(shape) * element

    read = list(dict.fromkeys(each for each in node.input if each))
    if width is not None:  # two parts of one tensor are two reads
        read = [each for each in node.input if each]
    if node.op_type == "Gather" and not node.domain:  # it reads the rows that it gives
        read = [node.input[1], node.output[0]]
    weights = sum(size(each) for each in read if each in constants)
    moved = sum(size(each) for each in [*read, *node.output] if each and each not in constants)
    matrix = _matrix(node, constants, values)
    operator = node.op_type if matrix is None else " ".join((node.op_type, "×".join(map(str, matrix))))
    item = values[node.input[0]][1]
    work = Work(_flops(node, matrix, values), weights, moved)
    return NodeTraffic(name, operator, _kind(node, matrix), item, work)


def _matrix(node: onnx.NodeProto, constants: set[str], values: Mapping[str, Value]) -> tuple[int, ...] | None:
    """Return the shape of the matrix that a node multiplies by: an operator of ours that has one is a matmul."""
    if node.op_type in _MATMULS and not node.domain:
        return values[node.input[1]][0]
    if node.domain == DOMAIN:
        return next((values[each][0] for each in node.input if each in constants and len(values[each][0]) == 2), None)
    return None


def _kind(node: onnx.NodeProto, matrix: tuple[int, ...] | None) -> Kind:
    if matrix is not None:
        return "matmul"
    if node.op_type in _ATTENTIONS:
        return "attention"
    return "copies" if node.op_type in _COPIES and not node.domain else "elementwise"


def _flops(node: onnx.NodeProto, matrix: tuple[int, ...] | None, values: Mapping[str, Value]) -> int:
    """Operations of matmuls and attention, a multiply-add as two."""
    if matrix is not None:
        return 2 * math.prod(values[node.output[0]][0]) * values[node.input[0]][0][-1]
    if node.op_type not in _ATTENTIONS:
        return 0
    queries, keys = values[node.input[0]][0], values[node.input[1]][0]
    return 4 * math.prod(queries) * keys[-2]
