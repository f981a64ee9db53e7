"""`himar-export debug` on real engines, against PyTorch, and in 8 bits."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("polygraphy", reason="needs Polygraphy: pip install 'himar[debug]'")

from himar_export.cli import main
from himar_export.debug import runners
from himar_export.debug.runs import reference, run
from himar_export.graph.emulate import emulated, read_graph
from himar_export.graph.layers import ATTENTION
from himar_export.verify.calls import Feed
from tests.closeness import assert_near
from tests.export.damage import damaged_copy

HEAD = ("--component", "dit_head")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_checkpoint) -> Path:
    """1.safetensors, and its bundles by the names of their precisions."""
    folder = tmp_path_factory.mktemp("runners")
    small_checkpoint(folder / "1.safetensors", 1)
    for precision in ("fp16", "int8", "fp8"):
        options = ["--max-batch", "3", "--no-memory", "--json", "--out", str(folder / precision)]
        assert main(["build", str(folder / "1.safetensors"), f"--{precision}", *options]) == 0
    return folder


@pytest.fixture
def checkpoint(folder) -> tuple[str, str]:
    return "--checkpoint", str(folder / "1.safetensors")


def debug(capsys, *arguments: object) -> tuple[int, dict]:
    capsys.readouterr()
    code = main(["debug", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["debug", *map(str, arguments)]) == 1
    return " ".join(capsys.readouterr().err.split())


def feeds(file: Path) -> list[Feed]:
    graph = read_graph(file).model.graph
    sizes = {"rows": 2}
    made: Feed = {}
    for each in graph.input:
        shape = [sizes.get(d.dim_param, d.dim_value or 1) for d in each.type.tensor_type.shape.dim]
        real = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        made[each.name] = real if each.type.tensor_type.elem_type == 1 else np.full(shape, 7)
    return [made]


def test_onnx_runtimes_own_kernels_are_looked_at_layer_by_layer(capsys, folder):
    code, emulation = debug(capsys, folder / "fp16", *HEAD)
    assert code == 0 and emulation["engine_error"] is None
    code, report = debug(capsys, folder / "fp16", *HEAD, "--runner", "onnxruntime")
    assert code == 0 and report["runner"] == "onnxruntime" and report["kept"] is None
    assert [each["name"] for each in report["layers"]] == [each["name"] for each in emulation["layers"]]
    assert 0 < report["engine_error"] < 5e-3
    halves = [each for each in report["layers"] if each["precision"] == "fp16"]
    assert halves and all(0 < each["error"] < 5e-3 for each in halves)
    code, mixed = debug(capsys, folder / "fp16", *HEAD, "--against", "onnxruntime")
    assert code == 0 and mixed["against"] == "ONNX Runtime on cpu"


def test_an_engine_is_compared_with_pytorch(capsys, folder, checkpoint, tmp_path):
    options = (*HEAD, *checkpoint, "--against", "eager", "--runner", "onnxruntime")
    code, report = debug(capsys, folder / "fp16", *options)
    assert code == 0 and report["against"].startswith("PyTorch")
    matmuls = {each["name"] for each in report["layers"] if each["kind"] == "matmul"}
    assert {"blocks.0.fc1", "blocks.0.proj", "final.linear"} <= matmuls
    layers = read_graph(folder / "fp16" / "dit_head.onnx").layers
    assert matmuls == {layer.name for layer in layers if layer.weight}
    damaged = damaged_copy(folder / "fp16", tmp_path / "damaged", "dit_head", "blocks.0.fc1.weight")
    code, report = debug(capsys, damaged, *options)
    assert code == 1 and report["first"] == "blocks.0.fc1"
    assert main(["debug", str(damaged), *options]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "more layers have no value in both." in out
    assert "The bundle's own engine, nothing marked, is" in out


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits_are_looked_at_layer_by_layer(capsys, folder, checkpoint, precision):
    code, report = debug(capsys, folder / precision, *HEAD, *checkpoint)
    assert code == 0
    wrong = {each["name"]: each for each in report["layers"] if each["precision"] == precision}
    assert "blocks.0.fc1" in wrong and all(each["error"] > 1e-4 for each in wrong.values())
    # Of fp8 the reference has the checkpoint's weights; of int8, whose weights took factors, the integers' own.
    assert report["eager_error"] < (1e-5 if precision == "fp8" else 6e-2)
    assert report["eager_error"] > (0 if precision == "fp8" else 1e-4)


def test_int8_layers_can_be_searched_and_fp8_keeps_none(capsys, folder):
    code, report = debug(capsys, folder / "int8", *HEAD, "--limit", "1e-3")
    assert code == 1 and report["kept"]["error"] <= 1e-3
    known = {each["name"] for each in report["layers"] if each["precision"] == "int8"}
    assert report["fp32_layers"]["dit_head"] and set(report["fp32_layers"]["dit_head"]) <= known
    code, report = debug(capsys, folder / "fp8", *HEAD, "--limit", "1e-3")
    assert code == 1 and report["kept"] is None and report["fp32_layers"] == {}


def test_a_text_tower_is_compared_with_pytorch(capfd, text_bundle, text_checkpoint):
    """And ONNX Runtime has nothing to warn of."""
    sides = ("--checkpoint", text_checkpoint, "--text", text_checkpoint.with_name("clip"), "--against", "eager")
    capfd.readouterr()
    arguments = ("debug", text_bundle, "--component", "text_encoder", "--precision", "fp16", *sides, "--json")
    assert main(list(map(str, arguments))) == 0
    out, err = capfd.readouterr()
    assert "onnxruntime" not in err
    names = {each["name"] for each in json.loads(out)["layers"]}
    assert {"blocks.0.fc1", "blocks.1.proj", "blocks.1.attention.qkv.0"} <= names


def test_int8_with_every_layer_kept_is_the_reference(folder):
    file = folder / "int8" / "dit_head.onnx"
    graph = read_graph(file)
    kept = {layer.module for layer in graph.lowered()}
    expected, found, rounded = (
        values[0]["prediction"]
        for values in (
            reference(graph, {}, feeds(file)),
            run({"g": emulated(graph, kept, {})}, feeds(file))["g"],
            run({"g": emulated(graph, (), {})}, feeds(file))["g"],
        )
    )
    assert_near(found, expected, 1e-5)
    assert np.linalg.norm(rounded - expected) > 1e-4 * np.linalg.norm(expected)


def test_what_a_runner_cannot_do_is_refused(capsys, folder, checkpoint, monkeypatch):
    half = (folder / "fp16", *HEAD)
    monkeypatch.setattr(runners, "find_gpu", lambda: None)
    for runner in ("tensorrt", "tensorrt-rtx"):
        text = refused(capsys, *half, "--runner", runner)
        assert f"--runner {runner} builds an engine of dit_head and runs it on an NVIDIA GPU, and none can" in text
        assert "give --runner emulate or onnxruntime" in text
    monkeypatch.setattr(runners, "find_gpu", lambda: "a GPU")
    text = refused(capsys, *half, "--runner", "tensorrt")
    assert "is written for onnxruntime, and --runner tensorrt needs it as TensorRT takes it" in text
    text = refused(capsys, folder / "fp8", *HEAD, "--runner", "tensorrt")
    assert "is in fp8 for onnxruntime, with scales that a checkpoint does not have; build a bundle with" in text
    text = refused(capsys, folder / "int8", *HEAD, "--runner", "tensorrt")
    assert "dit_head is in int8, which is for ONNX Runtime on a CPU; give --runner onnxruntime" in text
    text = refused(capsys, *half, *checkpoint, "--precision", "bf16", "--runner", "onnxruntime")
    assert "dit_head is in bfloat16, which ONNX Runtime cannot run on the CPU; give --device cuda" in text
    text = refused(capsys, folder / "int8", *HEAD, "--runner", "onnxruntime", "--device", "cuda")
    assert "dit_head is in int8, which is for the CPU only" in text
    assert "--against eager compares with the network of a checkpoint" in refused(capsys, *half, "--against", "eager")
    text = refused(capsys, *half, "--against", "onnxruntime", "--runner", "onnxruntime")
    assert "--against onnxruntime would compare it with itself" in text


def test_tensorrt_builds_an_engine_with_every_layer_as_an_output(digits_fp16_rtx_graphs, tmp_path):
    """Types and names as far as they go without a GPU: the network is parsed and the engine built."""
    library = pytest.importorskip("tensorrt_rtx")
    from himar_export.tensorrt.network import parse_network
    from himar_runtime import ComponentSpec

    folder, parts = digits_fp16_rtx_graphs
    part, graph = parts["dit_head"], read_graph(folder / "dit_head.onnx")
    onnx.save(runners.marked(graph, for_tensorrt=True), tmp_path / "marked.onnx")
    network = parse_network(library, tmp_path / "marked.onnx").network
    found = {network.get_output(i).name: network.get_output(i).dtype for i in range(network.num_outputs)}
    assert set(found) == {f"{each.output}#shown" for each in graph.layers if each.output != "prediction"} | {
        "prediction"
    }
    for layer in graph.layers:
        if layer.output in graph.halves or layer.kind == ATTENTION:
            assert found[f"{layer.output}#shown"] == library.float16
    spec = ComponentSpec("dit_head", "", "fp16", part.inputs, part.outputs, part.profile, "tensorrt-rtx", "")
    assert len(runners.marked_engine(library, graph, spec)) > 1000


@pytest.mark.gpu
def test_onnx_runtime_on_a_gpu(capsys, folder):
    code, report = debug(capsys, folder / "fp16", *HEAD, "--runner", "onnxruntime", "--device", "cuda")
    assert code == 0 and report["engine_error"] < 5e-3
    assert all(each["error"] < 5e-3 for each in report["layers"])


@pytest.mark.gpu
def test_a_tensorrt_engine_on_a_gpu(capsys, folder, checkpoint):
    pytest.importorskip("tensorrt")
    options = (*HEAD, *checkpoint, "--runner", "tensorrt")
    for against in ("float32", "eager", "onnxruntime"):
        code, report = debug(capsys, folder / "fp16", *options, "--against", against)
        assert code == 0 and report["layers"] and all(each["error"] < 5e-3 for each in report["layers"])
