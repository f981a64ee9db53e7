"""`--fp32-layers` keeps the layers it names in float32, and them alone; a bundle says so and a refit repeats it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from himar import load_checkpoint, load_vae, save_checkpoint
from himar_export.cli import main
from himar_export.families.hi_mar.components import components
from himar_export.graph.component import Component
from himar_export.graph.emulate import emulated, read_graph
from himar_export.graph.fp32_layers import keep_in_float32, layer_names
from himar_export.graph.onnx_export import to_onnx
from himar_export.graph.precision import Matmul
from himar_export.graph.repeated import Repeated
from himar_export.make.manifest import BundleWriter
from himar_export.make.rounding import run
from himar_export.make.weights import weight_file
from himar_kernels import BuildError
from himar_runtime import TensorSpec
from tests.closeness import assert_near

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
KEPT = ["blocks.0.fc2", "blocks.0.modulation"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_checkpoint) -> Path:
    """A checkpoint with a weight that float16 cannot hold, and its bundle in fp16 with that layer in float32."""
    folder = tmp_path_factory.mktemp("fp32-layers")
    model = load_checkpoint(small_checkpoint(folder / "1.safetensors", 1))
    feed_forward = model.dit_head.blocks[0].mlp
    with torch.no_grad():
        feed_forward.fc2.weight[0, 0] = 1e5
        for parameter in (feed_forward.fc1.weight, feed_forward.fc1.bias):
            parameter[0] = 0  # it multiplies nothing, so that other layers' rounding is not magnified
    save_checkpoint(model, folder / "large.safetensors")
    names = ["--fp32-layers", f"dit_head={','.join(KEPT)}", "--fp32-layers", "transformer_low=encoder.0.attention"]
    assert main([*build(folder / "large.safetensors", folder / "bundle"), *names]) == 0
    return folder


def build(checkpoint: Path, out: Path, *options: str) -> list[str]:
    return ["build", str(checkpoint), "--fp16", "--max-batch", "3", *options, "--out", str(out), "--json"]


def refused(capsys, arguments, code=1) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    return capsys.readouterr().err


def weight_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the types of a graph's matrices that are multiplied, by the names of their layers."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    products = [
        node
        for node in model.graph.node
        if node.input[1:] and node.input[1] in types and node.op_type in ("MatMul", "Linear")
    ]
    return {node.input[1].rpartition(".")[0]: types[node.input[1]] for node in products}


def test_the_named_layers_are_float32_and_no_others(folder):
    types = weight_types(onnx.load(folder / "bundle" / "dit_head.onnx", load_external_data=False))
    wide = {name for name, kind in types.items() if kind == FLOAT}
    assert wide == {*KEPT, "x_embedder", "final.linear"}
    assert set(types.values()) == {FLOAT, HALF}


def test_a_modulation_in_float32_reads_what_is_not_rounded(folder):
    graph = onnx.load(folder / "bundle" / "dit_head.onnx", load_external_data=False).graph
    node = next(node for node in graph.node if "blocks.0.modulation.weight" in node.input)
    makers = {output: node.op_type for node in graph.node for output in node.output}
    assert makers[node.input[0]] == "Mul"  # of SiLU, whose operator of ours gives half precision
    assert not any(node.op_type.startswith("BiasSilu") for node in graph.node)


def test_a_name_stands_for_what_is_inside_of_it(folder):
    types = weight_types(onnx.load(folder / "bundle" / "transformer_low.onnx", load_external_data=False))
    wide = {name for name, kind in types.items() if kind == FLOAT and name.startswith(("encoder", "decoder"))}
    assert wide == {f"encoder.0.attention.qkv.{part}" for part in range(3)}


def test_the_manifest_names_them_and_a_refit_keeps_them(folder):
    refitted = folder / "refitted"
    refit = ["refit", str(folder / "bundle"), str(folder / "large.safetensors"), "--out", str(refitted), "--json"]
    assert main(refit) == 0
    old, new = (json.loads((each / "manifest.json").read_text()) for each in (folder / "bundle", refitted))
    assert set(old["components"]["dit_head"]["fp32_layers"]) == set(KEPT)
    assert len(old["components"]["transformer_low"]["fp32_layers"]) == 3
    assert "fp32_layers" not in old["components"]["mlp_head"]
    assert new["components"] == old["components"]
    assert new["files"] == old["files"]


def test_without_it_a_weight_beyond_float16_names_its_layer(capsys, folder, tmp_path):
    message = refused(capsys, build(folder / "large.safetensors", tmp_path / "b"))
    assert "a weight of 1e+05 in blocks.0.fc2 overflows float16" in message
    assert "--fp32-layers dit_head=blocks.0.fc2" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "dit_head=blocks.0.fc3",
            "dit_head has no layer 'blocks.0.fc3' that could be kept in float32; it has blocks.0",
        ),
        ("dit_head=final.linear", "dit_head has no layer 'final.linear' that could"),  # it is float32 anyway
        ("dit=blocks.0.fc2", "float32 layers are given for 'dit', but this bundle's components are transformer_low, "),
        ("dit_head=*", "layers of dit_head would be in float32; build it with --precision dit_head=fp32"),
        ("vae_decoder=*", "float32 layers are given for 'vae_decoder', but this bundle's components are"),
    ],
)
def test_layers_that_cannot_be_kept_are_refused(capsys, folder, tmp_path, given, said):
    message = refused(capsys, build(folder / "1.safetensors", tmp_path / "b", "--fp32-layers", given))
    assert said in message
    assert list(tmp_path.iterdir()) == []


def test_a_component_in_float32_has_no_layers_to_keep(capsys, folder, tmp_path):
    options = ("--precision", "dit_head=fp32", "--fp32-layers", "dit_head=blocks.0.fc2")
    message = refused(capsys, build(folder / "1.safetensors", tmp_path / "b", *options))
    assert "float32 layers are given for dit_head, which is in fp32 as a whole; leave them out" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("[]", "it has no object fp32_layers of names by component"),
        ('{"fp32_layers": {"dit_head": [1]}}', "its fp32_layers are not lists of names by component"),
    ],
)
def test_a_file_that_is_not_of_debug_is_wrong_usage(capsys, folder, tmp_path, text, said):
    file = tmp_path / "debug.json"
    if text is not None:
        file.write_text(text)
    assert said in refused(capsys, build(folder / "1.safetensors", tmp_path / "b", "--fp32-layers", str(file)), 2)
    assert "neither NAME=LAYER" in refused(
        capsys, build(folder / "1.safetensors", tmp_path / "b", "--fp32-layers", "dit_head"), 2
    )


class Block(torch.nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.fc = Matmul(torch.randn(4, 4, generator=generator), torch.randn(4, generator=generator), torch.float16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc(torch.tanh(x) * 0.5).float()


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = Repeated([Block(seed) for seed in range(3)], "tests of fp32 layers")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place in range(3):
            (x,) = self.blocks.run(place, x)
        return x


def test_one_of_several_blocks_alike_may_differ(tmp_path):
    """A block that a network repeats is exported once; one with a float32 layer by itself, the others stay copies."""
    spec = (TensorSpec("x", "float32", ("rows", 4)),), (TensorSpec("y", "float32", ("rows", 4)),)
    whole = Component(
        "network", *spec, {"rows": (1, 2, 4)}, lambda dtype: Network(), (), lambda rows: {"x": torch.randn(rows, 4)}
    )
    (part,) = keep_in_float32([whole], {"network": "fp16"}, {"network": ["blocks.1"]})
    model = to_onnx(part, "fp16", weight_file(tmp_path))
    assert weight_types(model) == {"blocks.0.fc": HALF, "blocks.1.fc": FLOAT, "blocks.2.fc": HALF}
    x = torch.randn(3, 4)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert_near(session.run(None, {"x": x.numpy()})[0], part.graph(torch.float16)(x).numpy(), 2e-3)


def test_a_kept_layer_changes_only_how_a_graph_rounds(tmp_path, small_variant):
    """Graphs of a fused style with such layers compute what the float32 graph does, closer than half precision."""
    head = next(part for part in components(small_variant({}), None, 3, "onnxruntime") if part.name == "dit_head")
    names = layer_names(head, "fp16")
    (most,) = keep_in_float32(
        [head], {"dit_head": "fp16"}, {"dit_head": [name for name in names if name != "blocks.0.attention.qkv.1"]}
    )
    errors = []
    samples = {name: value.numpy() for name, value in head.sample_inputs(3).items()}
    exact = head.graph(torch.float32)(*head.sample_inputs(3).values()).detach().numpy()
    for number, part in enumerate((head, most)):
        (place := tmp_path / str(number)).mkdir()
        weights = weight_file(place)
        onnx.save(to_onnx(part, "fp16", weights), place / "g.onnx")
        weights.stream.close()
        session = ort.InferenceSession(place / "g.onnx", providers=["CPUExecutionProvider"])
        errors.append(np.linalg.norm(session.run(None, samples)[0] - exact) / np.linalg.norm(exact))
    assert errors[0] < 5e-3
    assert errors[1] < errors[0] / 2


def test_a_typed_network_proves_them(digits_model, tmp_path):
    """Also that an attention is float32 whose queries, keys and values are."""
    library = pytest.importorskip("tensorrt_rtx")
    from himar_export.tensorrt.network import parse_network
    from himar_export.tensorrt.precision import operations, require_precision

    head = next(part for part in components(digits_model, None, 4) if part.name == "dit_head")
    layers = {"dit_head": ["blocks.1.attention", "blocks.0.fc2"]}
    (part,) = keep_in_float32([head], {"dit_head": "fp16"}, layers)
    writer = BundleWriter(tmp_path, digits_model, 4)
    writer.add_component(part, "fp16")
    writer.close_weights()
    parsed = parse_network(library, tmp_path / "dit_head.onnx")
    require_precision(parsed, part, "fp16")
    wide = {each.name for each in operations(parsed) if each.precision == "fp32"}
    names = {f"{name}.weight" for name in ("x_embedder", "blocks.0.fc2", "blocks.1.attention.qkv", "final.linear")}
    assert wide == {*names, "attention.1"}
    with pytest.raises(BuildError, match=r"its matmul blocks\.0\.fc2\.weight runs in fp32 where fp16 belongs"):
        require_precision(parsed, replace(part, islands=head.islands), "fp16")


def test_the_decoders_kept_convolutions_are_not_rounded(digits_model, tmp_path):
    """The first one's input is beyond fp16 here, and so is what it would round."""
    vae = load_vae(WEIGHTS / "digits-vae.safetensors")
    decoder = next(part for part in components(digits_model, vae, 4) if part.name == "vae_decoder")
    (part,) = keep_in_float32([decoder], {"vae_decoder": "fp16"}, {"vae_decoder": ["decoder.conv_in"]})
    writer = BundleWriter(tmp_path, digits_model, 4)
    writer.add_component(part, "fp16")
    writer.close_weights()
    graph = read_graph(tmp_path / "vae_decoder.onnx")
    latent = 1e7 * np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32)
    values, exact = (run(emulated(graph, kept, {}), [{"latent": latent}])[0] for kept in ((), None))
    first = next(layer.output for layer in graph.layers if layer.name == "decoder.conv_in")
    assert_near(values[first], exact[first], 1e-5)
    assert np.abs(values[first]).max() > np.finfo(np.float16).max


@pytest.fixture(scope="module")
def digits_model():
    return load_checkpoint(WEIGHTS / "digits.safetensors")


def test_fp8_keeps_no_layers(digits_model):
    head = next(part for part in components(digits_model, None, 4) if part.name == "dit_head")
    with pytest.raises(BuildError, match="float32 layers are given for dit_head in fp8, which keeps none; build it wi"):
        keep_in_float32([head], {"dit_head": "fp8"}, {"dit_head": ["blocks.0.fc2"]})
