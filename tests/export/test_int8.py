"""int8: exact integer matmuls whose rows do not depend on each other, where they belong, and refused elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from himar import load_checkpoint
from himar_export.cli import main
from himar_export.families.hi_mar.checks import int8_advice
from himar_export.families.hi_mar.components import components
from himar_export.graph import quantise
from himar_export.graph.quantise import LARGEST_PAIR, quantise_matmuls, quantise_weight
from himar_export.graph.row_scales import LOW, MIDDLE
from himar_export.make.build import BuildRequest, build
from himar_kernels import BuildError, EngineError, VerificationError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_runtime import Bundle, Device, Pipeline, load_networks
from himar_runtime.engines.ort.session import create_session
from tests.closeness import assert_each_near, assert_near

RNG = np.random.default_rng(5)
WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
LABELS = [3, 1, 4, 1, 5, 9, 2, 6]


def quantised(weight: np.ndarray, activation: str | None) -> onnxruntime.InferenceSession:
    """A session of y = f(x)·W, its matmul quantised; f is the identity, "Gelu" or "SiLU"."""
    tensor = onnx.TensorProto.FLOAT
    make, before = onnx.helper.make_node, []
    if activation == "Gelu":
        before = [make("Gelu", ["x"], ["f"])]
    elif activation == "SiLU":
        before = [make("Sigmoid", ["x"], ["s"]), make("Mul", ["x", "s"], ["f"])]
    graph = onnx.helper.make_graph(
        [*before, make("MatMul", ["f" if before else "x", "blocks.w"], ["p"]), make("Add", ["p", "blocks.b"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", tensor, ["rows", weight.shape[0]])],
        [onnx.helper.make_tensor_value_info("y", tensor, ["rows", weight.shape[1]])],
        [
            onnx.numpy_helper.from_array(weight, "blocks.w"),
            onnx.numpy_helper.from_array(np.zeros(weight.shape[1], np.float32), "blocks.b"),
        ],
    )
    model = ir.from_proto(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11)
    )
    assert quantise_matmuls(model, ("final.",)) == 1
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def specification(x: np.ndarray, weight: np.ndarray, zero: int) -> np.ndarray:
    """The module's formula in integers and float64."""
    integers, scale = quantise_weight(weight)
    span = np.maximum(x.max(axis=1), x.min(axis=1) * -(255 - zero) / zero)[:, None]
    q = np.clip(np.rint(x / span * (255 - zero)) + zero, 0, 255).astype(np.int64) - zero
    return (q @ integers.astype(np.int64)) * scale.astype(np.float64) * span / (255 - zero)


@pytest.mark.parametrize("inner", [8, 64, 513])
def test_products_are_the_formulas_integers(inner):
    weight, x = RNG.standard_normal((inner, 33), np.float32), RNG.standard_normal((7, inner), np.float32)
    y = quantised(weight, None).run(None, {"x": x})[0]
    wanted = specification(x, weight, MIDDLE)
    # A quotient that lies on the border of two integers may fall to either, which is a step of one input.
    assert np.median(np.abs(y - wanted)) <= 1e-6 * np.abs(wanted).max()
    assert_near(y, x @ weight, 0.02)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_largest_values_do_not_saturate(rows):
    """CPUs without integer dot products add two terms in 16 bits: larger weights would be cut off there, in silence."""
    pairs = np.tile(np.float32([[1, 127, 127], [1, 1, -127]]), (64, 1))
    for weight in (pairs, -pairs):
        for sign in (1, -1):
            x = np.full((rows, 128), sign, np.float32)
            assert_each_near(quantised(weight, None).run(None, {"x": x})[0], x @ weight, 0.01)


def test_two_neighbours_of_a_column_are_128_together_at_most():
    for weight in (
        RNG.standard_normal((512, 64), np.float32),
        RNG.standard_normal((513, 64), np.float32) ** 5,
        RNG.integers(-3, 4, (200, 500)).astype(np.float32),
        np.full((9, 2), -3.3, np.float32),
        np.tile(np.float32([[63.5], [64.5]]), (8, 1)),
    ):
        q = quantise_weight(weight)[0].astype(np.int64)
        pairs = np.abs(q[:-1] + q[1:])[q[:-1] * q[1:] > 0]
        assert np.abs(q).max() <= 127
        assert LARGEST_PAIR - 1 <= pairs.max() <= LARGEST_PAIR
    assert 255 * LARGEST_PAIR < 2**15
    assert np.abs(quantise_weight(RNG.standard_normal((1, 4), np.float32))[0]).tolist() == [[127] * 4]


@pytest.mark.parametrize("activation", ["Gelu", "SiLU"])
def test_results_of_gelu_and_silu_have_the_finer_scale(activation):
    weight, x = RNG.standard_normal((256, 32), np.float32), RNG.standard_normal((16, 256), np.float32)
    values = x / (1 + np.exp(-x)) if activation == "SiLU" else onnx_gelu(x)
    y, exact = quantised(weight, activation).run(None, {"x": x})[0], values @ weight
    found, coarse = (np.linalg.norm(each - exact) for each in (y, specification(values, weight, MIDDLE)))
    assert found < 0.95 * coarse
    assert np.median(np.abs(y - specification(values, weight, LOW))) <= 1e-5 * np.abs(exact).max()


def onnx_gelu(x: np.ndarray) -> np.ndarray:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gelu", ["x"], ["y"])], "gelu",
        [onnx.helper.make_tensor_value_info("x", 1, None)], [onnx.helper.make_tensor_value_info("y", 1, None)],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def test_rows_of_zeros_and_huge_rows_stay_what_they_are():
    weight = RNG.standard_normal((32, 8), np.float32)
    x = np.stack([np.zeros(32), np.full(32, 1e30), RNG.standard_normal(32)]).astype(np.float32)
    session = quantised(weight, None)
    together = session.run(None, {"x": x})[0]
    assert np.isfinite(together).all()
    assert not together[0].any()
    for row in range(3):  # a scale of the whole call would round the third row to nothing
        assert np.array_equal(session.run(None, {"x": x[row : row + 1]})[0][0], together[row])


def test_an_output_without_weights_is_zero():
    weight = np.zeros((8, 3), np.float32)
    weight[:, 1] = 1
    integers, scale = quantise_weight(weight)
    assert scale.tolist() == pytest.approx([1, 1 / 64, 1], rel=1e-6)
    assert not integers[:, [0, 2]].any()


def test_all_products_but_the_islands_are_integers(digits_bundle, digits_int8_bundle):
    entries = json.loads((digits_int8_bundle / "manifest.json").read_text())["components"]
    for name, entry in entries.items():
        graph, full = (
            onnx.load(bundle / f"{name}.onnx", load_external_data=False).graph
            for bundle in (digits_int8_bundle, digits_bundle)
        )
        matmuls = [node for node in graph.node if node.op_type in ("MatMul", "MatMulIntegerToFloat")]
        floats = [node.input[1] for node in matmuls if node.op_type == "MatMul"]
        assert len(matmuls) == sum(node.op_type == "MatMul" for node in full.node)
        assert entry["precision"] == ("fp32" if name == "vae_decoder" else "int8")
        if name != "vae_decoder":
            assert len(floats) <= 5
            assert all(weight.startswith(("final", "x_", "input", "cond", "z_", "c_")) for weight in floats)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_the_output(digits_int8_bundle, value):
    """Integers would hide it, and the runtime could not name the component any more."""
    engines = load_networks(Bundle.open(digits_int8_bundle), Device("cpu"), None).engines
    for part in components(load_checkpoint(WEIGHTS / "digits.safetensors"), None, 4, "onnxruntime"):
        samples = {name: tensor.numpy() for name, tensor in part.sample_inputs(rows=3).items()}
        for name in (spec.name for spec in part.inputs if spec.dtype == "float32"):
            for place in (0, 1, samples[name].shape[-1] - 1):
                spoilt = samples[name].copy()
                spoilt.flat[place] = value
                outputs = engines[part.name].run({**samples, name: spoilt})
                assert not all(np.isfinite(each).all() for each in outputs.values()), (part.name, name, place)


@pytest.mark.parametrize("activation", [None, "Gelu", "SiLU"])
@pytest.mark.parametrize("inner", [8, 33, 513])
def test_a_row_with_a_value_that_is_not_finite_is_not_finite(activation, inner):
    weight, x = RNG.standard_normal((inner, 5), np.float32), RNG.standard_normal((inner + 1, inner), np.float32)
    session = quantised(weight, activation)
    usual = session.run(None, {"x": x})[0]
    for value in (np.nan, np.inf):
        spoilt = x.copy()
        spoilt[np.arange(inner), np.arange(inner)] = value  # each row but the last at another place
        y = session.run(None, {"x": spoilt})[0]
        assert not np.isfinite(y[:-1]).any()
        assert np.array_equal(y[-1], usual[-1])


def test_weights_take_a_quarter(digits_bundle, digits_int8_bundle):
    sizes = []
    for bundle in (digits_bundle, digits_int8_bundle):
        parts = json.loads((bundle / "manifest.json").read_text())["components"]["dit_head"]["parts"]
        sizes.append(sum(part["bytes"] for part in parts if part["name"] == "blocks"))
    assert 0.25 < sizes[1] / sizes[0] < 0.3


def test_an_image_does_not_depend_on_the_others_of_its_batch(digits_int8_bundle):
    pipeline = Pipeline.load(digits_int8_bundle)
    together = pipeline.generate(LABELS, seed=2, sampling="fast")
    for index in (0, 5):
        alone = pipeline.generate([LABELS[index]], seed=2, sampling="fast", first_index=index)
        assert np.array_equal(alone.latents[0], together.latents[index])
    threaded = Pipeline.load(digits_int8_bundle, threads=3).generate(LABELS, seed=2, sampling="fast")
    assert np.array_equal(threaded.latents, together.latents)


def test_images_of_a_solver_are_float32s_images(digits_bundle, digits_int8_bundle):
    full, int8 = (
        Pipeline.load(bundle).generate(range(10), seed=3, sampling="fast").images.astype(np.int16)
        for bundle in (digits_bundle, digits_int8_bundle)
    )
    assert np.abs(full - int8).mean() <= 4


def test_wrong_scales_are_caught_at_the_build(monkeypatch, tmp_path, small_checkpoint):
    def wrong(weight):
        integers, scale = quantise_weight(weight)
        return integers, np.roll(scale, 1)

    monkeypatch.setattr(quantise, "quantise_weight", wrong)
    checkpoint = small_checkpoint(tmp_path / "m.safetensors", 1)
    with pytest.raises(VerificationError, match="differs from the eager model"):
        build(BuildRequest(checkpoint, tmp_path / "b", precision="int8"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("variant", ["single-scale", "scale-vector"])
def test_other_phases_have_int8_too(build_variant, variant):
    bundle = build_variant(variant, "--int8")
    assert main(["verify", str(bundle)]) == 0
    assert {spec.precision for spec in Bundle.open(bundle).manifest.components.values()} == {"int8"}


def test_int8_is_refused_where_it_cannot_be(capsys, tmp_path, small_checkpoint, digits_int8_bundle):
    model = ["build", str(small_checkpoint(tmp_path / "m.safetensors", 1)), "--out", str(tmp_path / "b")]
    assert main([*model, "--int8", "--precision", "vae_decoder=int8"]) == 2
    assert "precision int8 of vae_decoder is impossible: it convolves" in capsys.readouterr().err
    assert main([*model, "--int8", "--precision", "mlp_head=bf16"]) == 1
    assert "in int8 runs only on a CPU and mlp_head in bf16 only on a GPU" in " ".join(capsys.readouterr().err.split())
    assert main([*model, "--precision", "dit_head=int4"]) == 2
    assert "precision 'int4' of dit_head is unknown; choose fp32, fp16, bf16, int8 or fp8" in capsys.readouterr().err
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(
        BuildError, match=r"int8 of transformer_low is for ONNX Runtime on a CPU, and the backend is ten"
    ):
        build(BuildRequest(tmp_path / "m.safetensors", tmp_path / "b", precision="int8", backend="tensorrt-rtx"))
    assert not (tmp_path / "b").exists()


def test_a_build_says_which_settings_are_too_short_for_int8(capsys, tmp_path, small_checkpoint):
    checkpoint, config = small_checkpoint(tmp_path / "m.safetensors", 1), tmp_path / "config.json"
    settings = {"long": {"low_diffusion_steps": 100}, "short": {"high_diffusion_steps": 50}}
    settings = {name: {"low_steps": 1, "high_steps": 2, **each} for name, each in settings.items()}
    config.write_text(json.dumps({"heads": 2, "dit_heads": 2, "sampling": settings}))
    build = ["build", str(checkpoint), "--config", str(config), "--int8", "--out", str(tmp_path / "b")]
    assert main(build) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "int8 is coarse for the diffusion chains of 'short': take at least 100 diffusion steps, or a sol" in printed
    manifest = Bundle.open(tmp_path / "b").manifest
    solver = SamplingConfig(low_steps=1, high_steps=2, high_diffusion_steps=6, high_solver="dpm++")
    assert int8_advice(replace(manifest, sampling={"solver": solver})) is None
    full = {name: replace(spec, precision="fp32") for name, spec in manifest.components.items()}
    assert int8_advice(replace(manifest, components=full)) is None


def test_int8_on_a_gpu_is_refused_with_what_to_do(digits_int8_bundle):
    spec = Bundle.open(digits_int8_bundle).manifest.components["dit_head"]
    with pytest.raises(EngineError, match=r"dit_head is in int8, which is for the CPU only; .* --fp16"):
        create_session(Path("unread.onnx"), spec, Device.parse("cuda"), None, None)
