"""The paper's variants from checkpoint to image, through the verbs that a user calls."""

import importlib.util
import json

import numpy as np
import onnxruntime
import pytest

from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.sampler import generate
from himar_export.cli import main
from himar_kernels import PhiloxDraws
from himar_runtime import Pipeline
from himar_runtime.families.hi_mar.resident.runner import ResidentRunner
from tests.closeness import RUN, assert_near

COMPONENTS = {
    "single-scale": ["transformer_high", "mlp_head_high"],
    "visual": ["transformer_low", "transformer_high", "mlp_head_low", "mlp_head_high"],
    "dit-both": ["transformer_low", "transformer_high", "dit_head_low", "dit_head_high"],
    "scale-vector": ["transformer_low", "transformer_high", "dit_head_low", "dit_head_high"],
}
BUILDS = [("single-scale",), ("single-scale", "--fp16"), ("visual",), ("scale-vector", "--fp16")]


def run(capsys, *arguments, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else " ".join(printed.err.split())


def names(rows) -> list[str]:
    return list(dict.fromkeys(row["name"].split(":")[0] for row in rows))


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS, ids="".join)
def test_a_variant_builds_verifies_is_inspected_and_gives_the_eager_latents(build_variant, capsys, tmp_path, build):
    variant, precision = build[0], "fp16" if len(build) > 1 else "fp32"
    bundle = build_variant(*build)
    parts = COMPONENTS[variant]
    rows = json.loads(run(capsys, "verify", bundle, "--json"))["comparisons"]
    assert names(rows) == [*parts, "run selftest"]

    text = run(capsys, "inspect", bundle)
    assert all(part in text for part in parts)
    assert ("low_steps" in text) == (variant != "single-scale")
    manifest = json.loads(run(capsys, "inspect", bundle, "--json"))
    assert (manifest["schema_version"], sorted(manifest["components"])) == ("1.1", sorted(parts))
    assert {entry["precision"] for entry in manifest["components"].values()} == {precision}
    assert all(row["passed"] is not False for row in manifest["verification"])

    out = tmp_path / "latents.npz"
    run(capsys, "generate", bundle, "--labels", "0-2", "--seed", "5", "--out", out)
    model = load_checkpoint(bundle.with_suffix(".safetensors"))
    with np.load(out) as arrays:
        latents, low = arrays["latents"], arrays["low_latents"]
    side = 0 if variant == "single-scale" else 2
    assert low.shape == (3, 4, side, side)
    assert np.isfinite(latents).all()
    if precision == "fp32":
        eager = generate(model, [0, 1, 2], draws=PhiloxDraws(5)).numpy()
        assert_near(latents, eager, RUN)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["single-scale", "visual"])
def test_a_recording_of_a_variant_replays_through_its_bundle_and_no_other(build_variant, capsys, tmp_path, variant):
    bundle, out = build_variant(variant), tmp_path / "run.npz"
    checkpoint = bundle.with_suffix(".safetensors")
    run(capsys, "record", checkpoint, "--labels", "0-2", "--seed", "3", "--temperature", "0.7", "--out", out)
    rows = json.loads(run(capsys, "verify", bundle, "--recording", out, "--json"))["comparisons"]
    assert names(rows) == [*COMPONENTS[variant], "run run"]
    assert all(row["relative_l2"] <= RUN for row in rows)
    other = build_variant("visual" if variant == "single-scale" else "single-scale")
    assert "the recording is of another model" in run(capsys, "verify", other, "--recording", out, code=1)
    with np.load(out) as arrays:
        wrong = {**arrays, "run/latent": arrays["run/latent"] * np.float32(1.001)}
    np.savez(tmp_path / "wrong.npz", **wrong)
    assert main(["verify", str(bundle), "--recording", str(tmp_path / "wrong.npz")]) == 1


@pytest.mark.slow
def test_bench_times_a_variant_and_a_single_scale_refuses_low_options(build_variant, capsys, tmp_path):
    bundle = build_variant("single-scale")
    checkpoint = bundle.with_suffix(".safetensors")
    options = ("--repeats", "3", "--warm-up", "0", "--components")
    report = json.loads(run(capsys, "bench", bundle, "--checkpoint", checkpoint, *options, "--json"))
    assert report["to"] == "latents"
    assert [each["name"] for each in report["components"]] == COMPONENTS["single-scale"]
    assert all(c["passed"] for each in (*report["generations"], *report["components"]) for c in each["comparisons"])
    asked = ("--labels", "0", "--low-steps", "2", "--out", tmp_path / "x.npz")
    for verb in (("generate", bundle), ("record", checkpoint)):
        assert "low_steps is given, but" in run(capsys, *verb, *asked, code=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tensorrt_rtx_builds_a_variants_networks_in_the_precision_asked(build_variant):
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    from himar_export.families.hi_mar.components import components
    from himar_export.tensorrt.build import build_engine
    from himar_export.tensorrt.options import EngineOptions

    for variant, wanted in (("single-scale", COMPONENTS["single-scale"]), ("scale-vector", ["dit_head_low"])):
        bundle = build_variant(variant, "--fp16")
        parts = {part.name: part for part in components(load_checkpoint(bundle.with_suffix(".safetensors")), None, 3)}
        for name in wanted:
            built = build_engine(tensorrt_rtx, bundle / f"{name}.onnx", parts[name], "fp16", EngineOptions())
            assert built.table.counts["matmul"]["fp16"] > 0
            assert built.table.islands and set(built.table.norms) == {"fp32"}


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("variant", COMPONENTS)
def test_on_a_gpu_the_resident_loop_gives_the_cpus_latents(build_variant, variant, backend):
    installed = {
        "onnxruntime": "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
        "tensorrt": importlib.util.find_spec("tensorrt") is not None,
        "tensorrt-rtx": importlib.util.find_spec("tensorrt_rtx") is not None,
    }
    if not installed[backend]:
        pytest.skip(f"the backend {backend} is not installed for CUDA here")
    on_cpu = Pipeline.load(build_variant(variant))
    on_gpu = Pipeline.load(
        build_variant(variant, *([] if backend == "onnxruntime" else ["--backend", backend])), "cuda:0"
    )
    assert isinstance(on_gpu._runner, ResidentRunner)
    expected = on_cpu.generate([0, 2, 1], seed=5)
    for _ in range(3):  # run directly, recorded, replayed
        found = on_gpu.generate([0, 2, 1], seed=5)
        assert_near(found.latents, expected.latents, 1e-3)
