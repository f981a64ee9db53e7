"""Engines are built in a process of their own: whatever ends it is one sentence, and nothing stays."""

import logging
import subprocess
import sys
import types
from pathlib import Path

import pytest

from himar_export.cli import main
from himar_export.graph.component import Component
from himar_export.tensorrt.build import build_engine
from himar_export.tensorrt.options import EngineOptions
from himar_export.tensorrt.process import BuilderProcess
from himar_kernels import BuildError
from himar_runtime import TensorSpec

ENDS = {
    "os.kill(os.getpid(), signal.SIGSEGV)": r"was killed by SIGSEGV while it built part in fp16; report this",
    "os.kill(os.getpid(), signal.SIGKILL)": r"was killed by SIGKILL .*; the system does so when memory runs out",
    "print('corrupted list.'); sys.stdout.flush(); os._exit(134)": (
        r"ended with exit code 134 while it built part in fp16 \(corrupted list\); report this"
    ),
    "raise TypeError('no such function')": r"ended with exit code 1 .* \(TypeError: no such function\); report this",
}


def part() -> Component:
    x, y = (TensorSpec(name, "float32", ("rows", 4)) for name in "xy")
    return Component("part", (x,), (y,), {"rows": (1, 8, 8)}, lambda dtype: None, (), lambda rows: {})


def library(name: str, version: str = "1.2") -> types.ModuleType:
    module = types.ModuleType(name)
    module.__version__ = version
    return module


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """Makes a library whose import ends the process; this process never imports it."""

    def make(end: str) -> types.ModuleType:
        name = f"dying_library_{abs(hash(end))}"
        (tmp_path / f"{name}.py").write_text(f"import os, signal, sys\n{end}\n")
        monkeypatch.syspath_prepend(tmp_path)
        return library(name)

    return make


@pytest.mark.parametrize("end", ENDS)
def test_a_builder_that_ends_the_process_is_one_sentence(dying, end):
    made = dying(end)
    with (
        BuilderProcess(made) as builder,
        pytest.raises(BuildError, match=f"^{made.__name__} 1.2 {ENDS[end]}") as raised,
    ):
        builder.build(Path("part.onnx"), part(), "fp16", EngineOptions())
    assert "\n" not in str(raised.value)


def test_a_builder_that_dies_leaves_no_bundle(monkeypatch, small_checkpoint, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr("himar_export.tensorrt.process.CHILD", "import os; os.abort()")
    checkpoint = small_checkpoint(tmp_path / "small.safetensors", 0)
    command = ["build", str(checkpoint), "--fp16", "--backend", "tensorrt-rtx", "--cache", str(tmp_path / "cache")]
    assert main([*command, "--out", str(tmp_path / "bundle")]) == 1
    assert "was killed by SIGABRT while it built transformer_low in fp16" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"small.safetensors", "cache"}


@pytest.fixture
def rtx() -> types.ModuleType:
    return pytest.importorskip("tensorrt_rtx")


def test_a_child_builds_what_this_process_would_and_more_than_once(rtx, digits_fp16_rtx_graphs):
    folder, parts = digits_fp16_rtx_graphs
    file, component = folder / "mlp_head.onnx", parts["mlp_head"]
    seen: list[float] = []
    with BuilderProcess(rtx) as builder:
        first = builder.build(file, component, "fp16", EngineOptions(), progress=seen.append)
        process = builder._process
        second = builder.build(file, component, "fp16", EngineOptions(optimization_level=0))
        assert builder._process is process
    assert process.poll() is not None  # it ends with its last engine
    here = build_engine(rtx, file, component, "fp16", EngineOptions())
    assert (first.data, first.table) == (here.data, here.table)
    assert second.table == first.table
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_a_refusal_and_the_log_come_back(rtx, digits_fp16_rtx_graphs, caplog):
    folder, parts = digits_fp16_rtx_graphs
    with BuilderProcess(rtx) as builder, caplog.at_level(logging.DEBUG):
        with pytest.raises(BuildError, match=r"^tensorrt_rtx [\d.]+ cannot build mlp_head in fp16: .*workspace"):
            options = EngineOptions(workspace=1 << 20)
            builder.build(folder / "mlp_head.onnx", parts["mlp_head"], "fp16", options)
        with pytest.raises(BuildError, match="mlp_head was asked for in bf16"):  # the child goes on
            builder.build(folder / "mlp_head.onnx", parts["mlp_head"], "bf16", EngineOptions())
    assert any(record.name == "himar_runtime.engines.tensorrt.library" for record in caplog.records)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_what_interrupts_a_build_ends_the_child(rtx, digits_fp16_rtx_graphs, stop):
    folder, parts = digits_fp16_rtx_graphs

    def progress(fraction: float) -> None:
        raise stop

    with pytest.raises(stop), BuilderProcess(rtx) as builder:
        builder.build(folder / "mlp_head.onnx", parts["mlp_head"], "fp16", EngineOptions(), progress=progress)
    assert builder._process.returncode < 0


def test_a_child_whose_parent_is_gone_ends(rtx):
    with BuilderProcess(rtx) as builder:
        process = builder._start()
        process.stdin.close()
        assert process.wait(60) == 0


def test_the_process_that_builds_imports_no_pytorch():
    code = "import sys, himar_export.tensorrt.child; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
