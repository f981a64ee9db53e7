"""Half precision that is half, and repeatable builds."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from himar_export.graph.emulate import emulated, read_graph
from himar_export.make.rounding import run
from himar_export.verify.compare import compare
from himar_kernels import EngineError
from himar_runtime import Bundle, Device, Pipeline, load_networks

PRODUCTS = ("MatMul", "Conv", "Gemm", "Attention", "MultiHeadAttention", "Linear", "LinearGeluTanh")
LABELS = list(range(10))
WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"


def matmul_types(bundle: Path, component: str) -> dict[str, int]:
    """Count the matmuls of a graph by the type of their result."""
    model = onnx.shape_inference.infer_shapes(onnx.load(bundle / f"{component}.onnx", load_external_data=False))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in PRODUCTS:
            name = onnx.TensorProto.DataType.Name(types[node.output[0]])
            counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize(("fixture", "dtype"), [("digits_fp16_bundle", "FLOAT16"), ("digits_bf16_bundle", "BFLOAT16")])
def test_the_products_of_a_half_precision_bundle_are_half(request, fixture, dtype):
    bundle = request.getfixturevalue(fixture)
    for component, entry in json.loads((bundle / "manifest.json").read_text())["components"].items():
        counts = matmul_types(bundle, component)
        assert counts[dtype] >= 0.7 * sum(counts.values()), (component, counts)
        assert entry["precision"] == {"FLOAT16": "fp16", "BFLOAT16": "bf16"}[dtype]


def test_a_float32_bundle_is_float32_and_twice_as_large(digits_bundle, digits_fp16_bundle):
    for component in ("transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder"):
        assert set(matmul_types(digits_bundle, component)) == {"FLOAT"}
    sizes = [(bundle / "weights.bin").stat().st_size for bundle in (digits_bundle, digits_fp16_bundle)]
    assert 0.45 < sizes[1] / sizes[0] < 0.75


def test_float16_images_are_float32_images(digits_bundle, digits_fp16_bundle):
    full, half = (
        Pipeline.load(bundle).generate(LABELS, seed=3).images.astype(np.int16)
        for bundle in (digits_bundle, digits_fp16_bundle)
    )
    assert np.abs(full - half).mean() <= 2


def test_a_decoder_overflows_in_emulation_as_on_a_gpu(digits_fp16_bundle):
    """ONNX Runtime's CPU convolutions are float32: black images would first be seen on a GPU."""
    rounded = emulated(read_graph(digits_fp16_bundle / "vae_decoder.onnx"), (), {}, marked=False)
    engine = load_networks(Bundle.open(digits_fp16_bundle), Device("cpu"), None)["vae_decoder"]
    latent = np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32)
    (found, lost) = (values["image"] for values in run(rounded, [{"latent": latent}, {"latent": 1e7 * latent}]))
    assert 1e-5 < compare("", found, engine.run({"latent": latent})["image"], None).relative_l2 < 5e-3
    assert not np.isfinite(lost).all() and np.isfinite(engine.run({"latent": 1e7 * latent})["image"]).all()


def test_bfloat16_on_the_cpu_is_refused_with_what_to_do(digits_bf16_bundle):
    with pytest.raises(EngineError, match=r"bfloat16.*(--fp16|--fp32)"):
        Pipeline.load(digits_bf16_bundle)


def test_the_two_phases_share_their_large_matrices(digits_bundle):
    manifest = json.loads((digits_bundle / "manifest.json").read_text())
    for name in ("transformer_low", "transformer_high"):
        parts = {part["name"]: part for part in manifest["components"][name]["parts"]}
        for stack in ("encoder", "decoder"):
            assert parts[stack]["shared_bytes"] > 0.5 * parts[stack]["bytes"]
    stored = manifest["files"]["weights.bin"]["bytes"]
    everything = sum(p["bytes"] for c in manifest["components"].values() for p in c["parts"])
    assert stored < everything


def test_two_builds_of_one_checkpoint_are_equal(digits_bundle, build_digits, tmp_path):
    """A build that differs every time cannot be checked, cached or compared."""
    again = json.loads((build_digits(tmp_path / "again") / "manifest.json").read_text())
    first = json.loads((digits_bundle / "manifest.json").read_text())
    assert again["files"] == first["files"]
