"""Matmuls of one input in both forms, and which form a bundle's graphs have."""

from collections import Counter

import onnx
import pytest
import torch

from himar.families.hi_mar.model import HiMAR
from himar_export.families.hi_mar.transformer import FoldedBlock, LastBlock
from himar_export.graph.shared_input import Packed, modulations, parts_of, plus_one, shared_input
from himar_export.graph.style import GraphStyle
from tests.closeness import COMPONENT, assert_near


def test_both_forms_give_what_the_layer_gives_and_only_scales_have_one_added():
    linear, x = torch.nn.Linear(8, 12), torch.randn(5, 8)
    parts = plus_one(parts_of(linear, 3), [1])
    expected = linear(x) + torch.tensor([0.0, 1.0, 0.0]).repeat_interleave(4)
    for backend in ("tensorrt", "onnxruntime"):
        outputs = shared_input(parts, GraphStyle.of(backend, torch.float32))(x)
        assert [each.shape for each in outputs] == [(5, 4)] * 3
        assert_near(torch.cat(outputs, dim=-1), expected, COMPONENT)


def test_parts_that_lie_in_one_tensor_are_what_the_layer_gives():
    linear, x = torch.nn.Linear(8, 12), torch.randn(5, 8)
    packed = Packed(plus_one(parts_of(linear, 3), [1]), torch.float32)
    expected = (linear(x) + torch.tensor([0.0, 1.0, 0.0]).repeat_interleave(4)).chunk(3, dim=-1)
    pending = packed.bias_pending(x)
    assert all(part.values is pending[0].values and part.values.shape == (5, 12) for part in pending)
    for part, whole, wanted in zip(pending, packed(x), expected, strict=True):
        assert_near(part.with_bias(), wanted, COMPONENT)
        assert_near(whole, wanted, COMPONENT)
    with pytest.raises(ValueError, match=r"one shape, not \[\(4, 8\), \(5, 8\)\]"):
        Packed([(torch.zeros(4, 8), torch.zeros(4)), (torch.zeros(5, 8), torch.zeros(5))], torch.float32)


def test_modulations_are_packed_where_operators_of_ours_read_them():
    parts = parts_of(torch.nn.Linear(8, 12), 3)
    for backend in ("onnxruntime", "tensorrt", "tensorrt-rtx"):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            made = modulations(parts, style := GraphStyle.of(backend, dtype))
            assert isinstance(made, Packed) == style.fuses_elementwise


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_the_last_block_gives_a_whole_blocks_rows_of_the_positions_that_are_read(small_variant, backend):
    """A wrong slice would give other positions' values, in both phases and at no error."""
    model: HiMAR = small_variant("scale-vector")
    block, modulation = model.decoder_blocks[0], model.modulation("decoder", 0)
    style = GraphStyle.of(backend, torch.float32)
    rows, length, width = 3, model.config.buffer + model.config.positions, model.config.width
    x = torch.randn(rows * length, width)
    with torch.inference_mode():
        whole = FoldedBlock(block, modulation, 0, style)(x, (rows, length))
        last = LastBlock(block, modulation, 0, style)(x, (rows, length), 4, 7)
    assert_near(last, whole.reshape(rows, length, width)[:, 4:11].reshape(-1, width), COMPONENT)


def test_elementwise_operators_are_fused_in_half_precision_for_onnxruntime_alone():
    halves = (torch.float16, torch.bfloat16)
    for backend in ("onnxruntime", "tensorrt", "tensorrt-rtx"):
        fused = [dtype for dtype in (torch.float32, *halves) if GraphStyle.of(backend, dtype).fuses_elementwise]
        assert fused == (list(halves) if backend == "onnxruntime" else [])


def test_graphs_for_onnxruntime_split_and_transpose_nothing(digits_bundle):
    """What its CPU kernels would copy; one merged matmul would bring them back."""
    for name in ("transformer_low", "transformer_high", "mlp_head", "dit_head"):
        kinds = Counter(node.op_type for node in _graph(digits_bundle, name).node)
        assert not kinds["Split"] and not kinds["Transpose"], name


def test_graphs_for_tensorrt_have_one_product_for_all_modulations(small_rtx_bundle):
    head = _graph(small_rtx_bundle, "mlp_head")
    weights = {tensor.name: tuple(tensor.dims) for tensor in head.initializer}
    assert weights["modulations.weight"] == (32, 3 * 32)
    assert any(node.op_type == "Split" for node in head.node)


def test_half_precision_for_onnxruntime_has_one_matmul_for_all_modulations_of_a_block(digits_fp16_bundle):
    """And of the MLP head altogether; nothing splits or copies what they give."""
    blocks, width, mlp_width = 3, 64, 96
    for name, wanted in (("dit_head", {(width, 6 * width): blocks, (width, 2 * width): 1}),
                         ("mlp_head", {(mlp_width, (3 * blocks + 2) * mlp_width): 1})):  # fmt: skip
        graph = _graph(digits_fp16_bundle, name)
        assert _modulation_weights(graph) == wanted
        kinds = Counter(node.op_type for node in graph.node)
        assert not any(kinds[kind] for kind in ("Split", "Slice", "Transpose", "Concat"))
    places = [
        {each.name: each.i for each in node.attribute if each.name.endswith("_part")}
        for node in _graph(digits_fp16_bundle, "dit_head").node
        if "Modulated" in node.op_type
    ]
    attention, feed_forward = {"shift_part": 0, "scale_part": 1}, {"gate_part": 2, "shift_part": 3, "scale_part": 4}
    assert places == [attention, feed_forward, *(2 * [{**attention, "gate_part": 5}, feed_forward]),
                      {**attention, "gate_part": 5}]  # fmt: skip


def test_other_graphs_have_their_modulations_as_before(digits_bundle, digits_fp16_rtx_graphs):
    blocks, width, mlp_width = 3, 64, 96
    assert _modulation_weights(_graph(digits_bundle, "dit_head")) == {(width, width): 6 * blocks + 2}
    assert _modulation_weights(_graph(digits_bundle, "mlp_head")) == {(mlp_width, mlp_width): 3 * blocks + 2}
    folder, _ = digits_fp16_rtx_graphs
    mlp = {(mlp_width, 3 * blocks * mlp_width): 1, (mlp_width, 2 * mlp_width): 1}
    for name, wanted in (("dit_head", {(width, 6 * width): blocks, (width, 2 * width): 1}), ("mlp_head", mlp)):
        graph = _graph(folder, name)
        assert _modulation_weights(graph) == wanted
        assert not any(node.domain for node in graph.node)
        assert (
            Counter(node.op_type for node in graph.node)["Split"]
            == sum(wanted.values()) + (name == "dit_head") * blocks
        )


@pytest.mark.parametrize("name", ["dit_head", "mlp_head"])
@pytest.mark.parametrize(
    ("fixture", "operator"), [("digits_fp16_bundle", "BiasSiluToHalf"), ("digits_bf16_bundle", "BiasSiluToBfloat16")]
)
def test_what_modulations_read_is_made_in_one_pass(request, fixture, operator, name):
    """SiLU of timestep and condition and its rounding, which standard operators take four passes for."""
    graph = _graph(request.getfixturevalue(fixture), name)
    made = [node for node in graph.node if node.op_type == operator]
    assert len(made) == 1
    rounded = {output for node in graph.node if node.op_type == "Cast" for output in node.input}
    assert not rounded & {"condition", made[0].output[0]}
    assert not any(node.op_type in ("Sigmoid", "Mul") for node in graph.node)
    readers = {node.input[1].split(".")[-2] for node in graph.node if made[0].output[0] in node.input}
    assert readers == {"modulation" if name == "dit_head" else "modulations"}


def _modulation_weights(graph):
    """Count the matrices of matmuls that make modulations by their shape."""
    return Counter(
        tuple(tensor.dims)
        for tensor in graph.initializer
        if "modulation" in tensor.name and "weight" in tensor.name and len(tensor.dims) == 2
    )


def _graph(bundle, name):
    return onnx.load(bundle / f"{name}.onnx", load_external_data=False).graph
