"""What a graph's nodes do and move, against what can be counted by hand."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from himar_export.cost.cost import Peaks, Work
from himar_export.cost.traffic import NodeTraffic, graph_traffic, traffic_by_operator
from himar_export.graph.elementwise import DOMAIN, VERSION, add_functions
from himar_kernels import InputError

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
M, D = 6, 8


def model_of(nodes, weights, inputs, outputs) -> onnx.ModelProto:
    """weights, inputs: shapes and types by name, axes as text where they are dynamic; outputs: types by name."""
    tensors = [helper.make_tensor(name, kind, shape, [0.0] * _count(shape)) for name, (shape, kind) in weights.items()]
    given = [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in inputs.items()]
    made = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    sets = [helper.make_opsetid(*each) for each in (("", 23), (DOMAIN, VERSION), ("com.microsoft", 1))]
    model = helper.make_model(helper.make_graph(nodes, "g", given, made, tensors), opset_imports=sets, ir_version=10)
    add_functions(model, torch.float16)
    return model


def _count(shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


@pytest.fixture(scope="module")
def nodes() -> dict[str, NodeTraffic]:
    """Those of a graph with a packed matmul, an operator that reads its parts, attention and a shape's arithmetic."""
    graph = [
        helper.make_node("MatMul", ["c", "w"], ["packed"], name="packed"),
        helper.make_node("ModulatedNorm", ["x", "one", "zero", "packed", "bias", "packed", "bias"], ["normal"],
                         name="norm", domain=DOMAIN, epsilon=1e-6, scale_part=1, shift_part=0),
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Mul", ["shape", "shape"], ["squares"], name="squares"),
        helper.make_node("Add", ["weight_a", "weight_b"], ["weights"], name="weights"),
        helper.make_node("Reshape", ["normal", "rows"], ["q"], name="view"),
        helper.make_node("MultiHeadAttention", ["q", "k", "k"], ["mixed"], name="attend", domain="com.microsoft",
                         num_heads=2),
        helper.make_node("Cast", ["mixed"], ["wide"], name="cast", to=FLOAT),
        helper.make_node("Gather", ["table", "index"], ["row"], name="gather"),
        helper.make_node("Add", ["wide", "row"], ["y"], name="sum"),
    ]  # fmt: skip
    weights = {"w": ((4, 3 * D), HALF), "one": ((D,), FLOAT), "zero": ((D,), FLOAT), "bias": ((3 * D,), HALF),
               "weight_a": ((D,), FLOAT), "weight_b": ((D,), FLOAT), "table": ((100, D), FLOAT)}  # fmt: skip
    inputs = {"c": (["m", 4], HALF), "x": (["m", D], FLOAT), "k": ([2, 5, D], HALF), "index": ([1], TensorProto.INT64)}
    model = model_of(graph, weights, inputs, {"y": FLOAT, "squares": TensorProto.INT64, "weights": FLOAT})
    model.graph.initializer.append(helper.make_tensor("rows", TensorProto.INT64, [3], [2, -1, D]))
    return {node.name: node for node in graph_traffic(model, {"m": M})}


def test_what_moves_is_counted_and_nothing_else(nodes):
    assert list(nodes) == ["packed", "norm", "attend", "cast", "gather", "sum"]


def test_a_matmul_reads_its_matrix_and_input_and_writes_its_output(nodes):
    packed = nodes["packed"]
    assert (packed.kind, packed.operator, packed.item) == ("matmul", "MatMul 4×24", 2)
    assert packed.work == Work(2 * M * 4 * 3 * D, 4 * 3 * D * 2, M * (4 + 3 * D) * 2)


def test_an_operator_of_parts_reads_those_alone(nodes):
    """x and the result, one part each for scale and shift, and the same of their biases, which are constants."""
    norm = nodes["norm"]
    assert norm.kind == "elementwise"
    assert norm.work == Work(0, 2 * D * 4 + 2 * D * 2, M * D * (4 + 2 + 2 + 2))


def test_attention_reads_queries_keys_and_values_and_keeps_its_scores(nodes):
    """Keys and values are one tensor here, which is read once."""
    assert nodes["attend"].kind == "attention"
    assert nodes["attend"].work == Work(4 * 2 * 3 * 5 * D, 0, (M * D + 2 * 5 * D + M * D) * 2)


def test_casts_and_gathers_are_copies(nodes):
    assert nodes["cast"].kind == nodes["gather"].kind == "copies"
    assert nodes["cast"].work.bytes == M * D * (2 + 4)
    assert nodes["gather"].work.bytes == 8 + 2 * D * 4  # the index, the row read, the row written


def test_sums_by_operator_take_the_longer_of_operations_and_bytes(nodes):
    peaks = {4: Peaks(10.0, 100.0), 2: Peaks(1e3, 1e6), 1: Peaks(1e4, 1e6)}
    found = {each.operator: each for each in traffic_by_operator(nodes.values(), peaks)}
    assert list(found) == ["MatMul 4×24", "MultiHeadAttention", "ModulatedNorm", "Add", "Cast", "Gather"]
    packed = nodes["packed"].work
    assert found["MatMul 4×24"].seconds == packed.flops / 1e3 > packed.bytes / 1e6
    assert found["Add"].seconds == nodes["sum"].work.bytes / 100.0
    assert sum(each.nodes for each in found.values()) == len(nodes)


def test_an_axis_without_a_size_and_an_operator_that_nobody_knows_are_named():
    graph = [helper.make_node("Strange", ["x"], ["y"], name="odd", domain="com.microsoft")]
    model = model_of(graph, {}, {"x": (["m", D], FLOAT)}, {"y": FLOAT})
    with pytest.raises(InputError, match=r"axis 'm' has no size; give m=SIZE"):
        graph_traffic(model, {})
    with pytest.raises(InputError, match=r"the shape of 'y' at the node odd \(Strange\) does not follow"):
        graph_traffic(model, {"m": 2})
