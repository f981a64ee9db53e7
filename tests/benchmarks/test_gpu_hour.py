"""An hour on a GPU, on the CPU: every piece runs, a record goes on where it stopped, its page says what it holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import hour as gpu_hour
from benchmarks.gpu.page import main as page_command
from himar_kernels.shared.console import run_cli

TESTS = "tests/kernels/test_cuda_device.py"
GENERATIONS = [f"generation, fp16, batch 2, {setting}" for setting in ("paper", "forecast")]


def call(record: Path, ready: Path, *options: str) -> int:
    given = ["--out", record, "--bundles", ready, "--cpp", ready / "no-cpp", *options]
    return run_cli(gpu_hour.main, [str(each) for each in given])


def pieces_of(record: Path) -> dict[str, Any]:
    pieces: dict[str, Any] = json.loads(record.read_text())["pieces"]
    return pieces


@pytest.fixture(scope="module")
def ready(digits_fp16_bundle, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hour")
    (folder / "digits-fp16-onnxruntime").symlink_to(digits_fp16_bundle)
    return folder


@pytest.fixture(scope="module")
def record(ready) -> Path:
    """The record of one dry run from beginning to end."""
    path = ready / "record.json"
    assert call(path, ready, "--dry-run", "--minutes", "60") == 0
    return path


@pytest.mark.slow
def test_every_piece_of_a_dry_run_is_measured_or_says_what_it_lacks(record, ready):
    pieces = pieces_of(record)
    states = {name: piece["state"] for name, piece in pieces.items()}
    missing = [name for name, state in states.items() if state == "missing"]
    assert all("fp8" in name or name.startswith("C++") for name in missing)
    assert {state for name, state in states.items() if name not in missing} == {"done"}
    assert pieces["C++ tests"]["reason"] == (
        f"{ready}/no-cpp/tests/gpu/himar_gpu_tests is not here; make cpp builds it"
    )
    assert "--prepare" in pieces["self-test, fp8"]["reason"]
    assert pieces["peaks"]["figures"].keys() == {"environment", "copy", "products"}
    assert pieces["self-test, fp16"]["figures"]["self-test"]["passed"]
    assert pieces["memory, fp16, batch 2"]["figures"]["memory"]["engines"]["peak"] > 0


def test_single_calls_are_compared_and_timed_on_every_side(record):
    pieces = pieces_of(record)
    calls = pieces["calls, fp16"]["figures"]
    for name in ("mlp_head", "dit_head", "transformer_low", "transformer_high"):
        assert calls[name]["seconds"].keys() == {"eager", "eager fp32", "engines"} and calls[name]["refused"] == {}
        assert 0 < max(calls[name]["apart"].values()) < 5e-3
        assert calls[name]["kernels"]["eager"][0]["ms"] > 0
    for step in ("in place", "recorded", "without our operators"):
        heads = pieces[f"heads, fp16, {step}"]["figures"]
        assert {f"{head}, batch {batch}" for head in ("mlp_head", "dit_head") for batch in (1, 2)} < set(heads)
        for value in (heads["mlp_head, batch 2"], heads["dit_head, batch 1"]):
            assert value["seconds"].keys() == {"engines"} and max(value["apart"].values()) < 5e-3


def test_generations_run_twice_on_every_side(record):
    pieces = pieces_of(record)
    for piece in GENERATIONS:
        found = pieces[piece]["figures"]["generation"]
        assert {side: len(each) for side, each in found["seconds"].items()} == {
            "eager": 2, "engines": 2, "engines, recorded": 2,
        }  # fmt: skip
        assert found["bit_equal"]["engines"] and found["bit_equal"]["engines, recorded"]
        assert found["not_comparable"] and "unfinished" not in found  # chains of four steps


def test_tests_are_kept_by_file(record):
    pieces = pieces_of(record)
    assert list(pieces["tests found"]["figures"]["files"]) == [TESTS]
    found = pieces[f"tests, {TESTS}"]["figures"]["tests"]
    assert found["exit_code"] == 0 and len(found["not_passed"]) + found["passed"] > 0


def test_aims_about_a_gpu_are_not_measured_by_a_dry_run(record):
    found = {each["aim"]: each for each in json.loads(record.read_text())["aims"]}
    assert {each["verdict"] for aim, each in found.items() if "at most" in aim and "memory" not in aim} == {
        "not measured"
    }
    assert "the aim is of himar-b on a GPU, and this is digits on cpu" in next(iter(found.values()))["reason"]
    assert found["memory of a generation at most eager's"]["verdict"] in ("met", "missed")


def test_the_same_command_measures_what_is_left_and_nothing_else(record, ready, tmp_path, capsys):
    content = json.loads(record.read_text())
    path = tmp_path / "again.json"
    cut, begun, lost = "heads, fp16, recorded", GENERATIONS[0], "self-test, fp16"
    del content["pieces"][cut]["figures"]["dit_head, batch 2"]
    content["pieces"][cut]["state"] = "running"  # its machine was taken away
    content["pieces"][begun]["state"] = "cut off"
    content["pieces"][begun]["figures"]["generation"] = {"unfinished": True}
    path.write_text(json.dumps(content))
    before = pieces_of(path)
    assert call(path, ready, "--dry-run", "--minutes", "60", "--again", lost) == 0
    after = pieces_of(path)
    ran = {name for name in after if len(after[name]["seconds"]) != len(before[name]["seconds"])}
    assert ran == {cut, begun}
    assert after[lost]["state"] == "done" and f"{lost} …" in capsys.readouterr().err
    kept = before[cut]["figures"].items()
    assert dict(kept) == {name: value for name, value in after[cut]["figures"].items() if name != "dit_head, batch 2"}
    assert "seconds" in after[cut]["figures"]["dit_head, batch 2"]
    assert "unfinished" not in after[begun]["figures"]["generation"]


def test_what_the_minutes_do_not_reach_is_named_and_left(ready, tmp_path, capsys):
    path = tmp_path / "short.json"
    assert call(path, ready, "--dry-run", "--minutes", "0") == 1
    states = {name: piece["state"] for name, piece in pieces_of(path).items()}
    assert states["peaks"] == "too long" and states["calls, fp16"] == "waiting"
    said = capsys.readouterr()
    assert "left for the next call: self-test, fp16; calls, fp16; " in said.err
    assert "had all minutes and kept no figure: peaks." in said.err
    assert "batch 1, the paper's sampler: at most 1.2 s: not measured" in said.out


def test_the_page_of_a_record_has_its_figures_and_names_what_is_missing(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_cli(page_command, [str(record)]) == 0
    text = (tmp_path / "docs" / "gpu" / "record.md").read_text()
    pieces = pieces_of(record)
    assert "A dry run: next to no steps, on a CPU. Its figures say nothing of a GPU." in text
    seconds = pieces["calls, fp16"]["figures"]["dit_head"]["seconds"]["engines"]
    assert f"| dit_head, 4 | {1e3 * pieces['calls, fp16']['figures']['dit_head']['seconds']['eager']:.3g} |" in text
    assert f"| {1e3 * seconds:.3g} |" in text
    assert f"| {TESTS} | 0 |" in text and "| self-test, fp16 |" in text
    for name, piece in pieces.items():
        assert (f"| {name} | missing |" in text) == (piece["state"] == "missing")
    for aim in json.loads(record.read_text())["aims"]:
        assert f"| {aim['aim']} | **{aim['verdict']}** |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables) and "{" not in "".join(tables)


def test_a_page_of_no_record_is_refused(tmp_path, capsys):
    file = tmp_path / "x.json"
    for content, sentence in (("{", "is not a record of an hour on a GPU"), ('{"schema": 9}', "of schema 9")):
        file.write_text(content)
        assert run_cli(page_command, [str(file), "--out", str(tmp_path / "x.md")]) == 1
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x.md").exists()


def test_wrong_usage_is_refused_before_anything_is_written(ready, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_hour, "run_hour", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path = tmp_path / "new" / "x.json"
    for options, code, sentence in (
        (("--minutes", "nan"), 2, "is not a finite number"),
        (("--minutes", "-1"), 2, "Invalid value for '--minutes'"),
        (("--batch", "0"), 2, "Invalid value for '--batch'"),
        (("--dry-run", "--device", "cuda"), 2, "--dry-run chooses --device itself; leave it out."),
        (("--dry-run", "--batch", "4"), 2, "--dry-run chooses --batch itself; leave it out."),
        ((), 1, "PyTorch has no GPU here for device 'cuda'; use --device cpu."),
    ):
        assert call(path, ready, *options) == code
        assert sentence in capsys.readouterr().err
    assert not path.parent.exists()
    assert run_cli(gpu_hour.main, ["--dry-run"]) == 2
    assert "--out is missing" in capsys.readouterr().err


def test_a_record_of_other_options_or_without_the_piece_is_refused(record, ready, tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_bytes(record.read_bytes())
    assert call(path, ready, "--device", "cpu", "--model", "digits") == 1
    assert "is the record of other options" in capsys.readouterr().err
    assert call(path, ready, "--dry-run", "--again", "nothing") == 1
    assert "has no piece 'nothing' to measure again; it has peaks, " in capsys.readouterr().err
    assert path.read_bytes() == record.read_bytes()


def test_prepare_makes_the_bundles_or_says_why_not(monkeypatch, tmp_path, capsys):
    asked = []

    def build_bundles(work: Path, model: str, precision: str, batch: int, backends: Any, device: str) -> dict[str, Any]:
        asked.append((work, model, precision, batch, backends, device))
        made = {"onnxruntime": {"bundle": "there"}, "tensorrt": {"error": "EngineError: no TensorRT"}}
        return {"backends": {name: made[name] for name in backends}}

    monkeypatch.setattr(gpu_hour, "build_bundles", build_bundles)
    options = ["--prepare", "--bundles", str(tmp_path), "--backend", "onnxruntime", "--backend", "tensorrt"]
    assert run_cli(gpu_hour.main, options) == 1
    assert asked[0] == (tmp_path, "himar-b", "fp16", 128, ("onnxruntime", "tensorrt"), "cuda")
    said = capsys.readouterr().err
    assert "fp16 for onnxruntime: there" in said and "fp16 for tensorrt: EngineError: no TensorRT" in said
    assert run_cli(gpu_hour.main, ["--prepare", "--bundles", str(tmp_path)]) == 0


@pytest.mark.gpu
@pytest.mark.slow
def test_an_hour_of_the_digits_on_a_gpu_has_every_piece(ready, tmp_path):
    path = tmp_path / "gpu.json"
    options = ("--model", "digits", "--batch", "2", "--tests", TESTS, "--minutes", "20")
    assert call(path, ready, *options) == 0, path.read_text()
    pieces = pieces_of(path)
    assert {name for name, piece in pieces.items() if piece["state"] not in ("done", "missing")} == set()
    calls = pieces["calls, fp16"]["figures"]
    assert {"eager", "compiled", "engines"} == set(calls["dit_head"]["seconds"])
    assert calls["dit_head"]["kernels"]["engines"][0]["ms"] > 0
    assert pieces[GENERATIONS[0]]["figures"]["generation"]["refused"] == {}
    assert sys.executable not in pieces["tests found"]["figures"]["files"]
