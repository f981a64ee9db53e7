"""fp8 in TensorRT-RTX's real parser and builder: what a bundle holds, and graphs that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from himar import load_checkpoint
from himar_export.cli import main
from himar_export.families.hi_mar.components import components
from himar_export.make.gpu import find_gpu
from himar_export.tensorrt.build import build_engine
from himar_export.tensorrt.network import parse_network
from himar_export.tensorrt.options import EngineOptions
from himar_export.tensorrt.precision import operations, require_precision, typed_network_table
from himar_kernels import BuildError

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

# Matmuls of each component by precision: in fp8 the feed-forwards, and what modulates heads.
MATMULS = {
    "transformer_low": {"fp8": 4, "fp16": 6, "fp32": 2},
    "transformer_high": {"fp8": 4, "fp16": 7, "fp32": 2},
    "mlp_head": {"fp8": 4, "fp32": 2},
    "dit_head": {"fp8": 4, "fp16": 2, "fp32": 2},
}
Change = Callable[[onnx.GraphProto], None]


@pytest.fixture(scope="module")
def parts(small_rtx_fp8_bundle):
    model = load_checkpoint(small_rtx_fp8_bundle.with_suffix(".safetensors"))
    return {part.name: part for part in components(model, None, 3, "tensorrt-rtx")}


@pytest.fixture
def manifest(small_rtx_fp8_bundle) -> dict:
    return json.loads((small_rtx_fp8_bundle / "manifest.json").read_text())


@pytest.mark.parametrize("name", MATMULS)
def test_the_matmuls_of_a_bundle_are_read_back(manifest, name):
    entry = manifest["components"][name]
    assert entry["precision"] == "fp8"
    proof = entry["engine"]["precision"]
    assert proof["matmul"] == MATMULS[name]
    assert set(proof["normalization"]) == {"fp32"}
    assert len(proof["islands"]) == MATMULS[name]["fp32"]
    assert proof.get("attention", {"fp16": 1}).keys() == {"fp16"}


def test_every_half_matmul_of_attention_stays_half(small_rtx_fp8_bundle):
    parsed = parse_network(tensorrt_rtx, small_rtx_fp8_bundle / "dit_head.onnx")
    found = {each.name: each.precision for each in operations(parsed) if each.kind == "matmul"}
    for name, precision in found.items():
        wanted = "fp8" if any(part in name for part in ("modulation", "fc1", "fc2")) else "fp16"
        if precision != "fp32":
            assert (name, precision) == (name, wanted)
    assert sum(precision == "fp16" for precision in found.values()) == 2


@pytest.mark.skipif(find_gpu() is not None, reason="says what happens without a GPU")
def test_the_graphs_gave_the_models_numbers_on_the_cpu(manifest):
    assert manifest["verification_ran"].startswith("onnxruntime on cpu, on the ONNX graphs")
    fp8 = [row for row in manifest["verification"] if row["limit"] == 0.1 and "rounded as on a GPU" not in row["name"]]
    rows = {row["name"].partition(":")[0]: row for row in fp8}
    assert rows.keys() == MATMULS.keys()
    for name, row in rows.items():
        assert row["passed"], name
        assert row["relative_l2"] > 1e-3, name  # several times what fp16 shows: it was rounded to e4m3


def test_the_manifest_and_inspect_say_which_gpus_run_it(manifest, small_rtx_fp8_bundle, capsys):
    backend = manifest["backend"]
    assert backend["compute_capabilities"] is None
    assert backend["least_compute_capability"] == "8.9"
    assert main(["inspect", str(small_rtx_fp8_bundle)]) == 0
    printed = capsys.readouterr().out
    assert "covers by default, from compute capability 8.9 on" in printed
    assert "4 fp8" in printed


def changed(folder: Path, bundle: Path, name: str, change: Change) -> Path:
    """Write a component's graph with a change, its weights inside."""
    model = onnx.load(bundle / f"{name}.onnx")
    change(model.graph)
    del model.graph.value_info[:]
    onnx.save(model, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def weight(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def maker(graph: onnx.GraphProto, value: str) -> onnx.NodeProto:
    return next(node for node in graph.node if value in node.output)


def product(graph: onnx.GraphProto, layer: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == "MatMul" and node.input[1].startswith(f"{layer}.weight"))


def put_before(graph: onnx.GraphProto, node: onnx.NodeProto, *made: onnx.NodeProto) -> None:
    place = next(k for k, each in enumerate(graph.node) if each.name == node.name)
    for each in reversed(made):
        graph.node.insert(place, each)


def half_again(graph: onnx.GraphProto) -> None:
    """What a graph looks like of which one matmul was passed over."""
    node = product(graph, "blocks.0.fc1")
    stored = weight(graph, "blocks.0.fc1.weight.fp8")
    values = numpy_helper.to_array(stored).astype(ml_dtypes.float8_e4m3fn).astype(np.float16)
    graph.initializer.append(numpy_helper.from_array(values, "blocks.0.fc1.weight"))
    node.input[0] = maker(graph, maker(graph, node.input[0]).input[0]).input[0]
    node.input[1] = "blocks.0.fc1.weight"


def half_input(graph: onnx.GraphProto) -> None:
    """A weight in fp8 alone: TensorRT multiplies in half precision then."""
    node = product(graph, "blocks.0.fc1")
    node.input[0] = maker(graph, maker(graph, node.input[0]).input[0]).input[0]


def attention_in_fp8(graph: onnx.GraphProto) -> None:
    """One matmul more than belongs there."""
    node = next(each for each in graph.node if each.op_type == "MatMul" and each.input[1].endswith("qkv.weight"))
    name, x = node.input[1], node.input[0]
    values = numpy_helper.to_array(weight(graph, name)).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    eighth = helper.make_tensor(f"{name}.fp8", TensorProto.FLOAT8E4M3FN, values.shape, values.tobytes(), raw=True)
    graph.initializer.extend([eighth, numpy_helper.from_array(np.array(1, np.float16), "one")])
    graph.initializer.remove(weight(graph, name))
    put_before(
        graph, node,
        helper.make_node("QuantizeLinear", [x, "one", "val_fp8_zero"], ["x_fp8"], name="quantise"),
        helper.make_node("DequantizeLinear", ["x_fp8", "one", "val_fp8_zero"], ["x_of_fp8"], name="dequantise"),
        helper.make_node("DequantizeLinear", [f"{name}.fp8", "one", "val_fp8_zero"], ["w_of_fp8"], name="weights"),
    )  # fmt: skip
    node.input[:] = ["x_of_fp8", "w_of_fp8"]


def scales_per_channel(graph: onnx.GraphProto) -> None:
    """Such a matmul is none of fp8 on a GPU: its builder takes one scale for each side."""
    node = product(graph, "blocks.0.fc1")
    back = maker(graph, node.input[1])
    width = weight(graph, back.input[0]).dims[1]
    graph.initializer.append(numpy_helper.from_array(np.full(width, 0.5, np.float16), "scales"))
    zero = helper.make_tensor("zeros", TensorProto.FLOAT8E4M3FN, [width], bytes(width), raw=True)
    graph.initializer.append(zero)
    back.input[1:] = ["scales", "zeros"]
    back.attribute.append(helper.make_attribute("axis", 1))


def two_scales(graph: onnx.GraphProto) -> None:
    """Values come back at another size than they had."""
    back = maker(graph, product(graph, "blocks.0.fc1").input[0])
    graph.initializer.append(numpy_helper.from_array(np.array(0.25, np.float16), "other"))
    back.input[1] = "other"


def through_integers(graph: onnx.GraphProto) -> None:
    """int8 in place of e4m3."""
    node = product(graph, "blocks.0.fc1")
    into, back = maker(graph, maker(graph, node.input[0]).input[0]), maker(graph, node.input[1])
    shape = tuple(weight(graph, back.input[0]).dims)
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "nought"))
    graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.int8), "blocks.0.fc1.weight.int8"))
    for each in (into, maker(graph, node.input[0]), back):
        each.input[2] = "nought"
    back.input[0] = "blocks.0.fc1.weight.int8"


WRONG = [
    (half_again, r"matmul blocks\.0\.fc1\.weight runs in fp16 where fp8 belongs"),
    (half_input, r"matmul blocks\.0\.fc1\.weight runs in fp16\+fp8 where fp8 belongs"),
    (attention_in_fp8, r"matmul blocks\.0\.\S*qkv\.weight runs in fp8 where fp16 belongs"),
    (scales_per_channel, r"matmul blocks\.0\.fc1\.weight runs in fp8\+fp8 not per tensor where fp8 belongs"),
    (two_scales, r"matmul blocks\.0\.fc1\.weight runs in fp8\+fp8 by two scales where fp8 belongs"),
    (through_integers, r"matmul \S+ runs in int8 where \w+ belongs"),
]


@pytest.mark.parametrize(("change", "text"), WRONG, ids=[change.__name__ for change, _ in WRONG])
def test_a_graph_that_is_not_in_fp8_as_it_should_be_is_refused_by_name(
    small_rtx_fp8_bundle, parts, tmp_path, change, text
):
    right = parse_network(tensorrt_rtx, small_rtx_fp8_bundle / "dit_head.onnx")
    require_precision(right, parts["dit_head"], "fp8")
    assert typed_network_table(right, "fp8").counts["matmul"] == MATMULS["dit_head"]
    parsed = parse_network(tensorrt_rtx, changed(tmp_path, small_rtx_fp8_bundle, "dit_head", change))
    with pytest.raises(BuildError, match=rf"^dit_head was asked for in fp8, but its {text}, so the engine was not"):
        require_precision(parsed, parts["dit_head"], "fp8")


@pytest.mark.parametrize(("asked", "bundle"), [("fp8", "small_rtx_bundle"), ("fp16", "small_rtx_fp8_bundle")])
def test_a_graph_of_the_other_precision_is_refused(parts, request, asked, bundle):
    file = request.getfixturevalue(bundle) / "dit_head.onnx"
    with pytest.raises(BuildError, match=rf"^dit_head was asked for in {asked}, but its matmul \S+ runs in fp\w+"):
        build_engine(tensorrt_rtx, file, parts["dit_head"], asked, EngineOptions())


@pytest.mark.parametrize("gpu", ["sm_75", "sm_80", "sm_86"])
def test_the_builder_itself_has_no_fp8_for_the_gpus_that_are_refused(small_rtx_fp8_bundle, parts, gpu):
    """So `tensorrt.options.LEAST_FP8` is its limit too: those from 8.9 on build in the other tests."""
    with pytest.raises(BuildError, match=r"cannot build dit_head in fp8: .*fp8_e4m3"):
        file = small_rtx_fp8_bundle / "dit_head.onnx"
        build_engine(tensorrt_rtx, file, parts["dit_head"], "fp8", EngineOptions(gpus=(gpu,)))


@pytest.mark.parametrize("gpu", ["sm_89", "sm_120", "sm_121"])
def test_the_builder_takes_it_for_the_gpus_that_have_fp8(small_rtx_fp8_bundle, parts, gpu):
    file = small_rtx_fp8_bundle / "dit_head.onnx"
    built = build_engine(tensorrt_rtx, file, parts["dit_head"], "fp8", EngineOptions(gpus=(gpu,)))
    assert built.table.counts["matmul"] == MATMULS["dit_head"]


def test_refitting_such_engines_is_refused(small_rtx_fp8_bundle, tmp_path, capsys):
    checkpoint = small_rtx_fp8_bundle.with_suffix(".safetensors")
    assert main(["refit", str(small_rtx_fp8_bundle), str(checkpoint), "--out", str(tmp_path / "new")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "for transformer_low, transformer_high, mlp_head, dit_head are in fp8 and keep the scales" in said
    assert "so they take no other weights; build the bundle anew" in said
    assert not list(tmp_path.iterdir())


def test_debug_looks_at_it_layer_by_layer(small_rtx_fp8_bundle, capsys):
    checkpoint = small_rtx_fp8_bundle.with_suffix(".safetensors")
    command = ["debug", str(small_rtx_fp8_bundle), "--component", "dit_head", "--checkpoint", str(checkpoint)]
    assert main(command) == 0
    assert "dit_head in fp8, emulated" in capsys.readouterr().out
    assert main([*command, "--precision", "fp16", "--json"]) == 0
