"""The ONNX that users and builders of engines get: opset 23, whole Attention nodes, named dynamic axes."""

import json
from pathlib import Path

import onnx
import pytest

ATTENTIONS = {"transformer_low": 4, "transformer_high": 4, "mlp_head": 0, "dit_head": 3, "vae_decoder": 1}


def graph(bundle: Path, component: str) -> onnx.ModelProto:
    return onnx.load(bundle / f"{component}.onnx", load_external_data=False)


@pytest.mark.parametrize(("component", "attentions"), ATTENTIONS.items())
def test_opset_23_and_attention_in_one_node(digits_bundle, component, attentions):
    model = graph(digits_bundle, component)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 23
    nodes = [node.op_type for node in model.graph.node]
    assert nodes.count("Attention") == attentions
    assert "Softmax" not in nodes
    assert "NonZero" not in nodes


@pytest.mark.parametrize("component", ["transformer_low", "transformer_high", "dit_head"])
def test_softmax_is_asked_to_run_in_float32_in_half_precision(digits_fp16_bundle, component):
    attentions = [node for node in graph(digits_fp16_bundle, component).graph.node if node.op_type == "Attention"]
    assert attentions
    for node in attentions:
        precision = {a.name: a.i for a in node.attribute}["softmax_precision"]
        assert precision == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("component", ATTENTIONS)
def test_inputs_and_their_dynamic_axes_are_the_manifests(digits_bundle, component):
    entry = json.loads((digits_bundle / "manifest.json").read_text())["components"][component]
    found = [
        {"name": v.name, "shape": [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]}
        for v in graph(digits_bundle, component).graph.input
    ]
    assert found == [{"name": tensor["name"], "shape": tensor["shape"]} for tensor in entry["inputs"]]
    named = {size for tensor in found for size in tensor["shape"] if isinstance(size, str)}
    assert named == set(entry["profile"])


def test_no_path_of_the_machine_that_built_it_is_in_a_graph(digits_bundle):
    for component in ATTENTIONS:
        assert b"site-packages" not in (digits_bundle / f"{component}.onnx").read_bytes()
