"""The short report of a GPU, on the CPU: every figure is kept as it comes, and sides are compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from himar_kernels.shared.console import run_cli

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "himar" / "himar" / "weights"
PARTS = ("dit_head", "mlp_head", "transformer_low", "transformer_high", "vae_decoder")


@pytest.fixture
def gpu_quick():
    from benchmarks.gpu import quick as gpu_quick

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


def refused(gpu_quick, capsys, bundle: Path, out: Path, *options: object, code: int = 1) -> str:
    """Return what a run says that ends before its first write."""
    given = [bundle, "--checkpoint", WEIGHTS / "digits.safetensors", "--out", out, "--device", "cpu", *options]
    before = out.read_bytes() if out.exists() else None
    assert run_cli(gpu_quick.main, [str(each) for each in given]) == code
    assert (out.read_bytes() if out.exists() else None) == before
    text = capsys.readouterr().err
    assert "unexpected" not in text
    return text


def test_everything_is_checked_before_the_first_write(gpu_quick, monkeypatch, capsys, digits_bundle, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_quick, "copy_rate", lambda *_: pytest.fail("it measured"))
    out, vae = tmp_path / "new" / "x.json", ["--vae", WEIGHTS / "digits.safetensors"]
    for options, code, expected in (
        (["--device", "cuda"], 1, "PyTorch has no GPU here for device 'cuda'; use --device cpu."),
        (["--batch", 1000], 1, "batch 1000 is beyond the bundle's max_batch"),
        (["--checkpoint", WEIGHTS / "digits-vae.safetensors"], 1, "error: "),
        (vae, 1, "error: "),
        (["--batch", 1025], 2, "Invalid value for '--batch'"),
        (["--minutes", "nan"], 2, "is not a finite number"),
        (["--device", "gpu"], 2, "'gpu' is not cpu, cuda or cuda:N"),
        (["--kernels", "--batch", 1], 2, "--kernels shows a GPU's kernels, which --device cpu has none of"),
    ):
        assert expected in refused(gpu_quick, capsys, digits_bundle, out, *options, code=code)
    assert "error: " in refused(gpu_quick, capsys, tmp_path, out)  # no bundle
    assert not out.parent.exists()
    taken = tmp_path / "x.json"
    taken.write_text("{}")
    text = refused(gpu_quick, capsys, digits_bundle, taken, "--batch", 1)
    assert f"{taken} exists; choose another --out or remove it." in text


def test_what_differs_is_named_and_ends_with_1(gpu_quick, monkeypatch, capsys, digits_bundle, tmp_path):
    for name in ("copy_rate", "matmul_rates"):
        monkeypatch.setattr(gpu_quick, name, lambda *_: 0)

    def components(setting, batch, compiled, kernels, kept, until):
        kept.add("mlp_head", {"refused": {"engines": "2 apart"}})
        kept.add("dit_head", {"refused": {"compiled": "not here"}})

    monkeypatch.setattr(gpu_quick, "components", components)
    monkeypatch.setattr(gpu_quick, "rows", lambda setting, batch, kept, until: kept.add(
        "rows", [{"component": "dit_head", "rows": 4, "refused": {"engines": "far"}}]))  # fmt: skip
    monkeypatch.setattr(gpu_quick, "generations", lambda setting, batch, kept, minutes: kept.add(
        "generation", {"refused": {"engines, recorded": "far"}}))  # fmt: skip
    out = tmp_path / "x.json"
    given = [digits_bundle, "--checkpoint", WEIGHTS / "digits.safetensors", "--out", out, "--device", "cpu"]
    assert run_cli(gpu_quick.main, [*map(str, given), "--batch", "1"]) == 1
    expected = "mlp_head, dit_head with 4 rows, the generation by engines, recorded"
    assert f"outputs differ or are missing of {expected}; {out} says why." in capsys.readouterr().err
    assert json.loads(out.read_text())["batch"] == 1
