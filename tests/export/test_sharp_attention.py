"""fp16 where scores pass fp16's largest number: deep, sharp attention gives numbers, and the right ones, on the CPU."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from himar import load_vae
from himar.families.hi_mar.layers import Attention
from himar.vae.layers import SpatialAttention
from himar_export.families.hi_mar.components import components
from himar_export.make.manifest import BundleWriter
from himar_export.tensorrt.network import tensorrt_graph
from himar_export.verify.compare import compare
from himar_runtime import Pipeline

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
LARGEST = float(np.finfo(np.float16).max)
NAMES = ("transformer_low", "transformer_high", "dit_head", "vae_decoder")


def sharpen(part: torch.nn.Module, factor: float) -> None:
    """Multiply the weights of all queries and keys in a network."""
    with torch.no_grad():
        for layer in part.modules():
            if isinstance(layer, Attention):
                for parameter in layer.qkv.parameters():
                    parameter[: 2 * len(parameter) // 3] *= factor
            if isinstance(layer, SpatialAttention):
                for projection in (layer.q, layer.k):
                    for parameter in projection.parameters():
                        parameter *= factor


@pytest.fixture(scope="module")
def sharp(small_variant):
    """A small model and the digits' VAE, whose scores lie far outside of fp16."""
    model, vae = small_variant({"channels": 4}), load_vae(WEIGHTS / "digits-vae.safetensors")
    sharpen(model, 3000.0)
    sharpen(vae, 3000.0)
    return model, vae


@pytest.fixture(scope="module", params=["onnxruntime", "tensorrt"], ids=["for ONNX Runtime", "for TensorRT"])
def exported(sharp, request, tmp_path_factory):
    """Their fp16 graphs in a folder, and their contracts by name."""
    folder = tmp_path_factory.mktemp("sharp")
    parts = {part.name: part for part in components(*sharp, 2, backend=request.param)}
    writer = BundleWriter(folder, sharp[0], 2)
    for name in NAMES:
        writer.add_component(parts[name], "fp16")
    writer.close_weights()
    return folder, parts, request.param == "tensorrt"


@torch.inference_mode()
def in_float32(part, inputs, monkeypatch) -> tuple[list[np.ndarray], float]:
    """A component's outputs in float32, and the largest score of its attentions."""
    largest = [0.0]
    attend = F.scaled_dot_product_attention

    def recorded(q, k, v, scale=None, is_causal=False):
        assert scale is None and not is_causal
        largest.append(float((q @ k.transpose(-1, -2)).abs().max() / q.shape[-1] ** 0.5))
        return attend(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    outputs = part.graph(torch.float32)(*inputs.values())
    monkeypatch.undo()
    return [each.numpy() for each in (outputs if isinstance(outputs, tuple) else (outputs,))], max(largest)


@pytest.mark.parametrize("name", NAMES)
def test_scores_beyond_fp16_give_the_model_s_numbers(sharp, exported, name, monkeypatch):
    folder, parts, _ = exported
    inputs = parts[name].sample_inputs(rows=2)
    reference = {part.name: part for part in components(*sharp, 2)}[name]  # its attentions are all torch's
    expected, largest = in_float32(reference, inputs, monkeypatch)
    assert largest > 2 * LARGEST
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    actual = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    for values, wanted in zip(actual, expected, strict=True):
        # Attention this sharp takes the largest score alone, so that two which fp16 rounds past each other differ.
        assert compare(name, values, wanted, 0.05).passed


def test_only_the_cpu_has_its_attention_in_float32(exported):
    """ONNX Runtime's GPUs and TensorRT get fp16, whose fused kernels keep scores in float32."""
    folder, _, for_tensorrt = exported
    file = folder / "dit_head.onnx"
    kinds = [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]
    if not for_tensorrt:
        assert "Attention" not in kinds and kinds.count("MultiHeadAttention") == 1
        return
    parsed = onnx.shape_inference.infer_shapes(tensorrt_graph(file))
    types = {value.name: value.type.tensor_type.elem_type for value in parsed.graph.value_info}
    attention = next(node for node in parsed.graph.node if node.op_type == "Attention")
    assert {types[name] for name in (*attention.input, *attention.output)} == {onnx.TensorProto.FLOAT16}
    assert [node.op_type for node in parsed.graph.node].count("Cast") == kinds.count("Cast") - 4


def test_the_decoder_s_attention_stays_an_island(exported):
    folder, _, for_tensorrt = exported
    if for_tensorrt:
        kinds = [[node.op_type for node in graph.graph.node] for graph in (
            onnx.load(folder / "vae_decoder.onnx", load_external_data=False),
            tensorrt_graph(folder / "vae_decoder.onnx"),
        )]  # fmt: skip
        assert kinds[0] == kinds[1]


def test_float16_bundles_of_trained_weights_are_as_close_as_torch_s(digits_fp16_bundle):
    """Attention on the CPU adds nothing to the rounding of the matmuls around it."""
    manifest = json.loads((digits_fp16_bundle / "manifest.json").read_text())
    errors = [row["relative_l2"] for row in manifest["verification"] if row["name"].startswith(("transformer", "dit"))]
    assert errors and max(errors) < 1e-3
    assert np.isfinite(Pipeline.load(digits_fp16_bundle).generate([1], seed=0).latents).all()
