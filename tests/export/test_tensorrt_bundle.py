"""A bundle of TensorRT engines on a machine without a GPU: what is in it, what is said of it, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from himar_export.cli import main
from himar_export.make.gpu import find_gpu
from himar_export.tensorrt.build import unfit_here
from himar_kernels import EngineError
from himar_runtime import Bundle, Device, load_networks

pytest.importorskip("tensorrt_rtx")

NAMES = ("transformer_low", "transformer_high", "mlp_head", "dit_head")
without_gpu = pytest.mark.skipif(find_gpu() is not None, reason="says what happens without a GPU")


@pytest.fixture(scope="module")
def rtx_bundle(small_rtx_bundle) -> Path:
    return small_rtx_bundle


@pytest.fixture
def manifest(rtx_bundle) -> dict:
    return json.loads((rtx_bundle / "manifest.json").read_text())


def run(capsys, *arguments, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err.strip()


def test_every_component_has_its_engine_and_its_graph(rtx_bundle, manifest):
    for name in NAMES:
        entry = manifest["components"][name]
        assert (entry["file"], entry["engine"]["file"]) == (f"{name}.onnx", f"{name}.engine")
        assert entry["engine"]["backend"] == "tensorrt-rtx"
        assert {f"{name}.onnx", f"{name}.engine"} <= manifest["files"].keys()
        assert (rtx_bundle / f"{name}.engine").stat().st_size == manifest["files"][f"{name}.engine"]["bytes"]
    assert "weights.bin" in manifest["files"]


def test_the_manifest_says_what_built_the_engines_and_what_they_run_in(manifest):
    import tensorrt_rtx

    backend = manifest["backend"]
    assert (backend["name"], backend["version"]) == ("tensorrt-rtx", tensorrt_rtx.__version__)
    assert backend["compute_capability"] is None
    for name in NAMES:
        precision = manifest["components"][name]["engine"]["precision"]
        assert precision["source"] == "typed network"
        operations = [precision[kind] for kind in ("matmul", "convolution", "attention") if kind in precision]
        assert sum(counts.get("fp16", 0) for counts in operations) > 0
        assert sum(counts.get("fp32", 0) for counts in operations) == len(precision["islands"])


@without_gpu
def test_engines_that_were_not_run_are_named_as_such(capsys, rtx_bundle, manifest):
    sentence = "onnxruntime on cpu, on the ONNX graphs: the tensorrt-rtx engines were not run"
    assert manifest["verification_ran"].startswith(sentence)
    assert all(row["passed"] for row in manifest["verification"])
    text = run(capsys, "verify", rtx_bundle)
    assert sentence in text
    assert "outputs match" in text
    assert json.loads(run(capsys, "verify", rtx_bundle, "--json"))["ran"].startswith(sentence)


@without_gpu
def test_an_engine_that_this_machine_cannot_run_is_known_before_it_is_loaded(rtx_bundle):
    """TensorRT-RTX tells from the header; a build on a GPU that its engines are not for then verifies the graphs."""
    import tensorrt_rtx

    reason = unfit_here(tensorrt_rtx, (rtx_bundle / "mlp_head.engine").read_bytes())
    assert reason is not None
    assert "driver" in reason
    assert unfit_here(tensorrt_rtx, bytes(1000)) == "MALFORMED_ENGINE"


def test_inspect_shows_the_precisions(capsys, rtx_bundle):
    lines = run(capsys, "inspect", rtx_bundle).splitlines()
    assert any("tensorrt-rtx" in line and "up to 3 images" in line for line in lines)
    title = next(number for number, line in enumerate(lines) if line.startswith("Engines: operations by precision"))
    rows = [line for line in lines[title:] if any(line.startswith(f"│ {name} ") for name in NAMES)][: len(NAMES)]
    assert len(rows) == len(NAMES)
    # transformer_low: 4 of the encoder's block, 5 of the decoder's (its queries are of fewer rows), decoder_embed.
    assert "10 fp16" in rows[0]
    islands = [line for line in lines if "read from the typed network; float32 islands:" in line]
    assert [line.split(":")[0] for line in islands] == list(NAMES)
    assert any("input_proj, final.linear" in line for line in islands)


def test_the_graphs_of_the_bundle_run_on_the_cpu_when_asked(rtx_bundle):
    networks = load_networks(Bundle.open(rtx_bundle), Device.parse("cpu"), None, backend="onnxruntime")
    assert networks["dit_head"].spec.name == "dit_head"


def test_the_engines_do_not_run_on_the_cpu(capsys, rtx_bundle, tmp_path):
    with pytest.raises(EngineError, match="engine for tensorrt-rtx, which needs an NVIDIA GPU"):
        load_networks(Bundle.open(rtx_bundle), Device.parse("cpu"), None)
    message = run(capsys, "generate", rtx_bundle, "--labels", "1", "--out", tmp_path / "x.png", code=1)
    assert "needs an NVIDIA GPU" in message
    assert list(tmp_path.iterdir()) == []


@without_gpu
def test_running_the_engines_without_a_gpu_is_refused(capsys, rtx_bundle):
    message = run(capsys, "verify", rtx_bundle, "--device", "cuda", code=1)
    assert message.startswith("error: ")
    assert len(message.splitlines()) <= 2


def test_refitting_engines_that_were_not_built_for_it_is_refused(capsys, rtx_bundle, tmp_path):
    message = run(capsys, "refit", rtx_bundle, tmp_path / "none.pth", "--out", tmp_path / "new", code=1)
    assert "built without --refittable; build the bundle anew" in message


def test_an_interruption_inside_the_builder_leaves_nothing(tmp_path, small_checkpoint):
    """The builder of the first engine is slowed down, so that the signal meets it at work."""
    checkpoint = small_checkpoint(tmp_path / "small.safetensors", 1)
    slow_child = """
import os, time
from himar_export.tensorrt import build as tensorrt_build
make = tensorrt_build.make_monitor
def slow(library):
    monitor = make(library)
    step = monitor.step_complete
    def step_complete(name, number):
        with open(os.environ["BUILDING"] + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.replace(file.name, os.environ["BUILDING"])
        time.sleep(0.05)
        return step(name, number)
    monitor.step_complete = step_complete
    return monitor
tensorrt_build.make_monitor = slow
from himar_export.tensorrt.child import main
main()
"""
    preamble = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from himar_export.tensorrt import process as tensorrt_process
tensorrt_process.CHILD = {slow_child!r}
from himar_export.cli import main
sys.exit(main(sys.argv[1:]))
"""
    out, sign = tmp_path / "b", tmp_path / "signs" / "building"
    sign.parent.mkdir()
    model = ["build", checkpoint, "--backend", "tensorrt-rtx", "--no-cache", "--out", out]
    command = [sys.executable, "-c", preamble, *map(str, model)]
    environment = {**os.environ, "BUILDING": str(sign)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not sign.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert sorted(tmp_path.iterdir()) == [sign.parent, checkpoint]
    with pytest.raises(ProcessLookupError):  # nor is the builder's process left, which had hundreds of steps to go
        os.kill(int(sign.read_text()), 0)
