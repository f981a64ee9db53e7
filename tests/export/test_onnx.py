"""The ONNX that users and builders of engines get: opset 23, whole attention nodes, named dynamic axes."""

import json
from pathlib import Path

import onnx
import pytest

from himar_export.families.hi_mar.components import components
from himar_export.graph.onnx_export import IR_VERSION, _check_interface
from himar_export.tensorrt.network import OPSET
from himar_kernels import BuildError

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


@pytest.mark.parametrize("fixture", ["digits_bundle", "digits_fp16_bundle", "digits_bf16_bundle", "digits_int8_bundle"])
def test_every_component_is_stamped_with_what_the_oldest_runtime_loads(request, fixture):
    """The onnx packages write newer versions by default than runtimes take: opset 28 and IR 14 in November 2026."""
    for component in ATTENTIONS:
        model = graph(request.getfixturevalue(fixture), component)
        assert model.ir_version == IR_VERSION == 10
        versions = {entry.domain: entry.version for entry in model.opset_import}
        assert versions.pop("") == OPSET == 23
        assert set(versions) <= {"himar", "com.microsoft"} and set(versions.values()) <= {1}
        for function in model.functions:
            assert {(entry.domain, entry.version) for entry in function.opset_import} <= {("", OPSET), ("himar", 1)}


def test_an_exporter_that_writes_another_opset_is_refused(digits_bundle, small_variant):
    model = graph(digits_bundle, "mlp_head")
    next(entry for entry in model.opset_import if not entry.domain).version = 28
    part = next(part for part in components(small_variant({}), None, 2) if part.name == "mlp_head")
    with pytest.raises(BuildError, match="mlp_head: PyTorch's exporter wrote opset 28 where 23 was asked for"):
        _check_interface(model, part)


@pytest.mark.parametrize("component", ["transformer_low", "transformer_high", "dit_head"])
def test_half_precision_attention_is_one_node_with_a_float32_softmax(digits_fp16_bundle, digits_bf16_bundle, component):
    """In fp16 ONNX Runtime's own operator, whose softmax is in float32 always; see himar_export.graph.attention."""
    nodes = [node.op_type for node in graph(digits_fp16_bundle, component).graph.node]
    assert nodes.count("MultiHeadAttention") == ATTENTIONS[component]
    assert not {"Attention", "Softmax"} & set(nodes)
    attentions = [node for node in graph(digits_bf16_bundle, component).graph.node if node.op_type == "Attention"]
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
