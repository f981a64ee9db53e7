"""Matmuls of one input in both forms, and which form a bundle's graphs have."""

from collections import Counter

import onnx
import pytest
import torch

from himar.families.hi_mar.model import HiMAR
from himar_export.families.hi_mar.transformer import FoldedBlock, LastBlock
from himar_export.graph.shared_input import parts_of, plus_one, shared_input
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


def _graph(bundle, name):
    return onnx.load(bundle / f"{name}.onnx", load_external_data=False).graph
