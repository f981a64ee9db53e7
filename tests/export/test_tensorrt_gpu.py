"""TensorRT engines on a GPU: verified at the build, equal to their graphs at the batch sizes in use, refitted.

fp8 is tested where the GPU has it.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from himar import load_checkpoint, save_checkpoint
from himar_export.cli import main
from himar_export.make.gpu import find_gpu
from himar_export.tensorrt.options import LEAST_FP8
from himar_export.verify.compare import compare
from himar_export.verify.limits import COMPONENT_LIMIT
from himar_kernels.families.hi_mar import index_lists
from himar_runtime import Bundle, Device, load_engine

pytestmark = pytest.mark.gpu
WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
DIGITS, VAE = WEIGHTS / "digits.safetensors", WEIGHTS / "digits-vae.safetensors"
NAMES = ("transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder")
IN_FP8 = ("transformer_low", "transformer_high", "dit_head")
PRECISIONS = ("fp32", "fp16", "bf16", "fp8")
GPU, CPU = Device.parse("cuda:0"), Device.parse("cpu")


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def backend(request) -> str:
    module = request.param.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    return request.param


@pytest.fixture(scope="module")
def engines(backend, bundles, build_digits) -> dict[str, Path]:
    """A bundle per precision; building it verified its engines on this GPU."""
    built = {
        precision: build_digits(bundles / f"gpu-{backend}-{precision}", f"--{precision}", "--backend", backend)
        for precision in PRECISIONS
        if precision != "fp8" or has_fp8()
    }
    ran = json.loads((built["fp16"] / "manifest.json").read_text())["verification_ran"]
    if backend == "tensorrt-rtx" and ran.startswith("onnxruntime"):
        pytest.skip("this GPU is none of those that TensorRT-RTX builds for")
    return built


def has_fp8() -> bool:
    gpu = find_gpu()
    return gpu is not None and float(gpu.capability) >= float(LEAST_FP8)


def built_in(engines: dict[str, Path], precision: str) -> Path:
    if precision not in engines:
        pytest.skip(f"this GPU is none of compute capability {LEAST_FP8} or later, and {precision} takes one")
    return engines[precision]


def inputs(bundle: Bundle, name: str, rows: int) -> dict[str, np.ndarray]:
    """Random inputs of a component; the index lists are those of half-known positions."""
    model = bundle.manifest.model
    S, N = model.low_positions, model.high_positions
    rng = np.random.default_rng(rows)
    known = np.zeros((rows, S if name == "transformer_low" else S + N), bool)
    known[:, : known.shape[1] // 2] = True
    lists = index_lists(known, model.buffer, S + N)
    ready = {"visible": lists.visible, "sources": lists.sources, "timestep": np.array([500])}
    ready["class_row"] = np.arange(rows) % (model.classes + 1)
    sizes = {"height": model.grid, "width": model.grid}
    return {
        tensor.name: ready[tensor.name]
        if tensor.name in ready
        else rng.standard_normal([sizes.get(s, rows) if isinstance(s, str) else s for s in tensor.shape], np.float32)
        for tensor in bundle.manifest.components[name].inputs
    }


@pytest.mark.parametrize("rows", [1, 2, 8, 16, 64, 128])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_engines_give_what_their_graphs_in_float32_give(engines, precision, rows):
    """Engines have been wrong at some row counts alone: guidance doubles them."""
    bundle, exact = Bundle.open(built_in(engines, precision)), Bundle.open(engines["fp32"])
    for name in NAMES:
        count = min(rows, bundle.manifest.max_batch) if name == "vae_decoder" else rows
        given = inputs(bundle, name, count)
        found = load_engine(bundle, name, GPU, None).run(given)
        wanted = load_engine(exact, name, CPU, None, backend="onnxruntime").run(given)
        for output, array in found.items():
            check = compare(f"{name}: {output}", array, wanted[output], COMPONENT_LIMIT[precision])
            assert check.passed, check


@pytest.mark.parametrize("rows", [1, 8, 128])
@pytest.mark.parametrize("name", IN_FP8)
def test_engines_in_fp8_round_as_their_graphs_do(engines, name, rows):
    """An engine that multiplies in fp16 would be as far from its graph, emulated on the CPU, as float32 is.

    Other graphs of the same matmuls in fp8, those for ONNX Runtime, lie at 0.2 to 0.4 of that, fp16 at 1.0: what is
    rounded differently before it becomes e4m3 may fall on the other side of a step.
    """
    bundle, exact = Bundle.open(built_in(engines, "fp8")), Bundle.open(engines["fp32"])
    given = inputs(bundle, name, rows)
    found = load_engine(bundle, name, GPU, None).run(given)
    emulated = load_engine(bundle, name, CPU, None, backend="onnxruntime").run(given)
    wanted = load_engine(exact, name, CPU, None, backend="onnxruntime").run(given)
    for output, array in found.items():
        apart = compare(output, array, emulated[output], None).relative_l2
        rounding = compare(output, emulated[output], wanted[output], None).relative_l2
        assert apart < 0.7 * rounding, (output, apart, rounding)


def test_full_tensorrt_refuses_fp8_where_the_gpu_has_none(backend, tmp_path, capsys):
    if has_fp8() or backend != "tensorrt":
        pytest.skip("this GPU has fp8, or the engines are for others")
    command = ["build", str(DIGITS), "--fp8", "--backend", backend, "--out", str(tmp_path / "b")]
    assert main(command) == 1
    assert f"fp8 takes a GPU of compute capability {LEAST_FP8} or later" in capsys.readouterr().err


def test_the_build_ran_the_engines_and_read_their_precisions_from_them(engines, backend):
    for precision, path in engines.items():
        manifest = json.loads((path / "manifest.json").read_text())
        assert manifest["verification_ran"] == f"{backend} on cuda"
        for name in NAMES:
            inspected = manifest["components"][name]["engine"]["inspected"]
            assert inspected["source"] == "engine inspector"
            counts = [counts for kind, counts in inspected.items() if isinstance(counts, dict)]
            own = manifest["components"][name]["precision"]
            assert own == (precision if precision != "fp8" or name in IN_FP8 else "fp16")
            assert any(own in each for each in counts)


def test_verify_runs_the_engines(engines, capsys):
    capsys.readouterr()
    assert main(["verify", str(engines["fp16"]), "--device", "cuda", "--json"]) == 0
    assert "on cuda" in json.loads(capsys.readouterr().out)["ran"]


def test_a_refitted_bundle_gives_the_new_checkpoints_numbers_and_is_refittable_again(
    engines, backend, bundles, build_digits, tmp_path
):
    """Its self-test is the new checkpoint's, replayed through the refitted engines: `refit` fails if they differ."""
    bundle = build_digits(bundles / f"gpu-{backend}-refittable", "--fp16", "--backend", backend, "--refittable")
    model = load_checkpoint(DIGITS)
    model.class_emb.weight.copy_(model.class_emb.weight.flip(0))
    for parameter in model.dit_head.parameters():
        parameter.mul_(1.01)
    save_checkpoint(model, tmp_path / "other.safetensors")
    for source, out in ((tmp_path / "other.safetensors", tmp_path / "there"), (DIGITS, tmp_path / "back")):
        assert main(["refit", str(bundle), str(source), "--vae", str(VAE), "--out", str(out)]) == 0
        bundle = out
    files = json.loads((tmp_path / "back" / "manifest.json").read_text())["files"]
    assert (
        files["weights.bin"] != json.loads((tmp_path / "there" / "manifest.json").read_text())["files"]["weights.bin"]
    )


@pytest.mark.parametrize("option", ["--version-compatible", "--hardware-compatible"])
def test_compatible_engines_of_full_tensorrt_run(bundles, build_digits, option):
    pytest.importorskip("tensorrt")
    build_digits(bundles / f"gpu{option}", "--fp16", "--backend", "tensorrt", option)
