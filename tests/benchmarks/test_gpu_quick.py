"""The short report of a GPU, on the CPU: every figure is kept as it comes, and sides are compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from himar_kernels.console import run_cli

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "himar" / "weights"
PARTS = ("dit_head", "mlp_head", "transformer_low", "transformer_high", "vae_decoder")


@pytest.fixture
def gpu_quick(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu_quick

    return gpu_quick


def run(gpu_quick, monkeypatch, bundle: Path, out: Path, *options: str) -> dict:
    given = ["--checkpoint", WEIGHTS / "digits.safetensors", "--vae", WEIGHTS / "digits-vae.safetensors", "--out", out]
    everything = ["gpu_quick.py", bundle, *given, "--device", "cpu", "--batch", "1", "--no-compile", *options]
    monkeypatch.setattr(sys, "argv", [str(each) for each in everything])
    assert run_cli(gpu_quick.main) == 0
    return json.loads(out.read_text())


def test_calls_are_timed_and_compared(gpu_quick, monkeypatch, digits_bundle, tmp_path):
    found = run(gpu_quick, monkeypatch, digits_bundle, tmp_path / "found.json", "--no-whole", "--minutes", "10")
    for name in PARTS:
        assert found[name]["seconds"]["engines"] > 0
        assert found[name]["seconds"]["eager"] > 0
        assert max(found[name]["apart"].values()) <= 1e-4
    assert not {"generation", "rows"} & set(found)  # a guided step of one image has two rows


def test_the_dit_heads_call_is_timed_at_every_number_of_rows_up_to_the_batchs(
    gpu_quick, monkeypatch, digits_bundle, tmp_path
):
    monkeypatch.setattr(gpu_quick, "ROWS", (4, 8, 16))
    found = run(gpu_quick, monkeypatch, digits_bundle, tmp_path / "found.json", "--no-whole", "--no-calls",
                "--batch", "4", "--minutes", "10")  # fmt: skip
    assert [(each["component"], each["rows"]) for each in found["rows"]] == [("dit_head", 4), ("dit_head", 8)]
    for each in found["rows"]:
        assert each["seconds_per_row"] == pytest.approx(each["seconds"] / each["rows"])
        assert each["refused"] == {} and each["flops_per_second"] > 0
    assert not {*PARTS, "generation"} & set(found)


def test_a_generation_of_each_side_is_timed_and_compared(gpu_quick, monkeypatch, digits_bundle, tmp_path):
    found = run(gpu_quick, monkeypatch, digits_bundle, tmp_path / "found.json", "--no-calls", "--minutes", "0")
    assert list(found["generation"]["apart"]) == ["engines"] and found["generation"]["apart"]["engines"] <= 1e-4
    assert found["generation"]["refused"] == {} and found["generation"]["limit"] >= 1e-4
    assert found["generation"]["cold"] == ["eager", "engines"] and found["generation"]["ratios"] == {}
    seconds = found["generation"]["seconds"]
    assert len(seconds["eager"]) == len(seconds["engines"]) == 1


def test_what_was_not_asked_for_is_not_measured(gpu_quick, monkeypatch, digits_bundle, tmp_path):
    found = run(gpu_quick, monkeypatch, digits_bundle, tmp_path / "found.json", "--no-calls", "--no-whole",
                "--no-rows", "--batch", "16")  # fmt: skip
    assert not {*PARTS, "generation", "rows"} & set(found)
    assert found["bundle"]
