"""fp8: scales, which matmuls of which component are rewritten, their inputs, NaN, refusals, refit."""

from __future__ import annotations

import json
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from himar_export.cli import main
from himar_export.families.checks import family_checks
from himar_export.graph.fp8 import LARGEST, LEAST_STEP, quantise_weight, rewrite_matmuls, step_of
from himar_export.graph.observed import Range
from himar_export.graph.precision_choice import component_precision, precision_of, require_runnable
from himar_export.make.build import BuildRequest, build
from himar_export.make.refit import RefitRequest, refit
from himar_kernels import BuildError, EngineError
from himar_runtime import Bundle, Device, Pipeline, load_networks
from himar_runtime.engines.ort import session

RNG = np.random.default_rng(8)
WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
E4M3 = ml_dtypes.float8_e4m3fn
LINEAR = ("LinearFp8", "LinearGeluTanhFp8")
INSIDE_ATTENTION = ("qkv", "proj", "q", "kv")


@pytest.mark.parametrize("largest", [0.0, 1e-9, 0.02, 0.4375, 0.44, 1.0, 447.9, 448.0, 449.0, 6e4])
def test_a_scale_is_the_least_power_of_two_that_holds_what_was_seen(largest):
    step = float(step_of(largest))
    assert np.log2(step) == np.rint(np.log2(step))
    assert step >= LEAST_STEP
    assert largest <= LARGEST * step
    assert step == LEAST_STEP or largest > LARGEST * step / 2
    assert float(np.float16(step)) == step


def test_a_weights_values_are_within_half_a_unit():
    weight = np.concatenate([RNG.standard_normal((64, 48)), 1e-3 * RNG.standard_normal((64, 48))]).astype(np.float16)
    values, step = quantise_weight(weight)
    assert values.dtype == E4M3
    exact = weight.astype(np.float64)
    error = np.abs(values.astype(np.float64) * step - exact)
    assert np.all(error <= np.maximum(np.abs(exact) * 2.0**-4, step * 2.0**-10))


def graphs(bundle: Path, component: str) -> onnx.GraphProto:
    return onnx.load(bundle / f"{component}.onnx", load_external_data=False).graph


def test_modulations_and_feed_forwards_are_fp8_and_nothing_else_is(digits_fp8_bundle, digits_fp16_bundle):
    entries = json.loads((digits_fp8_bundle / "manifest.json").read_text())["components"]
    kinds = {name: entry["precision"] for name, entry in entries.items()}
    assert kinds == {name: "fp16" if name in ("mlp_head", "vae_decoder") else "fp8" for name in kinds}
    for name in ("transformer_low", "transformer_high", "dit_head"):
        graph = graphs(digits_fp8_bundle, name)
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        eighths = [node for node in graph.node if node.op_type in LINEAR]
        layers = {node.input[1].split(".")[-3] for node in eighths}
        gelus = {node.input[1].split(".")[-3] for node in eighths if node.op_type == "LinearGeluTanhFp8"}
        assert gelus == ({"fc1"} if name == "dit_head" else set())
        assert layers == ({"modulation", "fc1", "fc2"} if name == "dit_head" else {"fc1", "fc2"})
        assert all(types[node.input[1]] == onnx.TensorProto.FLOAT8E4M3FN for node in eighths)
        others = [node.input[1] for node in graph.node if node.op_type in ("MatMul", "Linear", "LinearGeluTanh")]
        assert not any(layer in each for each in others for layer in ("fc1", "fc2", "modulation"))
        half = graphs(digits_fp16_bundle, name)
        assert sum("fc" in each.name and each.name.endswith("weight") for each in half.initializer) == sum(
            "fc" in node.input[1] for node in eighths
        )


def test_inputs_are_rounded_by_the_operators_that_make_them(digits_fp8_bundle):
    for name in ("transformer_low", "dit_head"):
        graph = graphs(digits_fp8_bundle, name)
        makers = {output: node for node in graph.node for output in node.output}
        for node in graph.node:
            if node.op_type in LINEAR:
                maker = makers[node.input[0]]
                assert maker.op_type.endswith(("ToFp8", "GeluTanhFp8")), (name, maker.op_type)
                assert node.input[2] == maker.input[5 if maker.op_type in LINEAR else -1]
        assert not any(node.op_type == "QuantizeLinear" for node in graph.node)
    assert sum(node.op_type == "Sigmoid" for node in graph.node) == 0


def test_what_is_not_finite_reaches_the_output(digits_fp8_bundle):
    """e4m3 has no infinity, and a largest value in its place would be seen no more."""
    engine = load_networks(Bundle.open(digits_fp8_bundle), Device("cpu"), None).engines["dit_head"]
    shapes = {spec.name: [3 if isinstance(size, str) else size for size in spec.shape] for spec in engine.spec.inputs}
    usual = {name: RNG.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    usual["timestep"] = np.array([500])
    for value in (np.nan, np.inf, -np.inf):
        for name in ("x", "condition"):
            spoilt = usual[name].copy()
            spoilt[1, 2, 0] = value
            found = engine.run({**usual, name: spoilt})["prediction"]
            assert not np.isfinite(found[1]).all(), (name, value)
            assert np.isfinite(found[[0, 2]]).all()


def test_fp8_images_stay_near_those_of_half_precision(digits_fp8_bundle, digits_fp16_bundle):
    """The DiT head's error is magnified by its chain; low tokens come from a head in fp16."""
    labels = list(range(6))
    full, half = (
        Pipeline.load(bundle).generate(labels, seed=3, sampling="fast").images.astype(np.int16)
        for bundle in (digits_fp16_bundle, digits_fp8_bundle)
    )
    assert 0 < np.abs(full - half).mean() < 25


def test_inspect_shows_it(digits_fp8_bundle, capsys):
    assert main(["inspect", str(digits_fp8_bundle)]) == 0
    assert "fp8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("component", "usual", "expected"),
    [("dit_head", "fp8", "fp8"), ("transformer_low", "fp8", "fp8"), ("mlp_head", "fp8", "fp16"),
     ("mlp_head_high", "fp8", "fp16"), ("vae_decoder", "fp8", "fp16"), ("vae_encoder", "fp8", "fp32")],
)  # fmt: skip
def test_the_usual_precision_is_fp8_where_it_gains(component, usual, expected):
    assert precision_of(component, usual, {}) == expected


def test_an_mlp_head_is_fp8_where_it_is_asked_for():
    assert precision_of("mlp_head", "fp16", {"mlp_head": "fp8"}) == "fp8"


@pytest.mark.parametrize(
    ("component", "message"),
    [("vae_decoder", r"^precision fp8 of vae_decoder is impossible: it convolves; choose fp32 or fp16\.$"),
     ("text_encoder", r"^precision fp8 of text_encoder is impossible: no image that a build makes passes"),
     ("vae_encoder", r"^precision fp8 of vae_encoder is impossible: rounding would change")],
)  # fmt: skip
def test_components_that_cannot_be_fp8_say_so(component, message):
    with pytest.raises(BuildError, match=message):
        component_precision("fp8", component)


def test_int8_and_fp8_are_for_different_devices():
    with pytest.raises(BuildError, match=r"^dit_head in int8 runs only on a CPU and transformer_low in fp8 is for a"):
        require_runnable({"dit_head": "int8", "transformer_low": "fp8"}, "onnxruntime")


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_fp8_is_for_every_backend(backend):
    require_runnable({"mlp_head": "fp16", "dit_head": "fp8"}, backend)


def test_an_onnx_runtime_that_cannot_round_to_fp8_is_named(digits_fp8_bundle, monkeypatch):
    monkeypatch.setattr(session, "onnxruntime", lambda: types.SimpleNamespace(__version__="1.23.2"))
    message = r"^transformer_low is in fp8, which ONNX Runtime 1\.23\.2 cannot run on the CPU .*; install 1\.24 or"
    with pytest.raises(EngineError, match=message):
        load_networks(Bundle.open(digits_fp8_bundle), Device("cpu"), None)


def test_chains_that_magnify_rounding_are_advised_against(digits_fp8_bundle):
    said = family_checks("hi_mar").advice(Bundle.open(digits_fp8_bundle).manifest)
    assert said is not None
    assert "fp8 is coarse for the diffusion chains of 'default'" in said
    assert "'fast'" not in said


def test_hmar_is_refused_and_nothing_is_left(tmp_path):
    request = BuildRequest(
        WEIGHTS / "hmar-digits.safetensors", tmp_path / "out", vae=WEIGHTS / "hmar-digits-vae.safetensors",
        precision="fp8",
    )  # fmt: skip
    with pytest.raises(BuildError, match=r"^precision fp8 of \w+ is impossible: its scales come from images that"):
        build(request)
    assert not list(tmp_path.iterdir())


def graph_of(weight: np.ndarray) -> ir.Model:
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "blocks.0.fc1.weight"], ["y"])], "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, ["rows", weight.shape[0]])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["rows", weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight, "blocks.0.fc1.weight")],
    )  # fmt: skip
    return ir.from_proto(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10))


def test_a_range_that_is_missing_is_said():
    with pytest.raises(BuildError, match=r"nothing was observed of what 'blocks.0.fc1.weight' multiplies in graph; pl"):
        rewrite_matmuls(graph_of(np.ones((16, 32), np.float16)), {})


def test_sizes_that_a_gpus_matmuls_do_not_take_stay_half():
    ones = np.ones(24, np.float32)
    seen = {"blocks.0.fc1.weight": Range(-ones, ones, ones)}
    model = graph_of(np.ones((24, 32), np.float16))
    assert rewrite_matmuls(model, seen) == 0
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_graphs_for_tensorrt_hold_q_and_dq_around_a_half_matmul():
    weight = RNG.standard_normal((16, 32)).astype(np.float16)
    model, ones = graph_of(weight), np.ones(16, np.float32)
    assert rewrite_matmuls(model, {"blocks.0.fc1.weight": Range(-3 * ones, 2 * ones, ones)}) == 1
    assert [node.op_type for node in model.graph] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "MatMul",
    ]
    scale = model.graph.initializers["blocks.0.fc1.input_step"].const_value
    assert scale is not None and scale.numpy() == step_of(3.0)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_refit_takes_other_weights_and_their_scales(tmp_path, digits_fp8_bundle):
    vae = WEIGHTS / "digits-vae.safetensors"
    refit(RefitRequest(digits_fp8_bundle, WEIGHTS / "digits.safetensors", tmp_path / "again", vae=vae))
    for file in ("dit_head.onnx", "weights.bin"):
        assert (tmp_path / "again" / file).read_bytes() == (digits_fp8_bundle / file).read_bytes()
