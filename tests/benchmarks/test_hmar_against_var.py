"""HMAR against VAR on a narrow model: four sides in one run, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.hmar import against_var
from himar_export.bench.run import Memory
from himar_export.bench.verdict import Ratio
from himar_kernels.shared.console import run_cli

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL, CONFIG = GOLDEN / "hmar-narrow-144.pth", GOLDEN / "hmar-narrow-144.json"
GIVEN = ["--checkpoint", str(MODEL), "--config", str(CONFIG), "--vae", str(GOLDEN / "hmar-vae-narrow.pth")]
SIDES = ["eager, HMAR", "engines, HMAR", "eager, VAR", "engines, VAR"]


@pytest.mark.slow
def test_four_sides_are_timed_and_their_memory_measured_in_one_run(hmar_bundle, tmp_path, capsys):
    out = tmp_path / "x.json"
    asked = ["--repeats", "3", "--warm-up", "0", "--threads", "1", "--sampling", "masked", "--memory"]
    assert run_cli(against_var.main, [str(hmar_bundle), *GIVEN, *asked, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for text in (*SIDES, "engines: VAR / HMAR", "HMAR: eager / engines", "1.75×", "3×"):
        assert text in printed
    values = json.loads(out.read_text())
    assert values["sampling"]["VAR"]["all_scales"] and values["sampling"]["VAR"]["schedule"] == []
    assert values["sampling"]["HMAR"]["schedule"][1] == [1, 3]
    (result,) = values["results"]
    assert list(result["seconds"]) == list(result["memory"]) == SIDES
    assert all(len(rounds) == 3 for rounds in result["rounds"].values())
    quotients = [
        float(np.median(var)) / float(np.median(own))
        for own, var in zip(result["rounds"]["engines, HMAR"], result["rounds"]["engines, VAR"], strict=True)
    ]
    assert result["ratios"]["engines: VAR / HMAR"]["value"] == pytest.approx(np.median(quotients))


def test_the_tables_put_ratios_beside_the_papers():
    seconds = dict(zip(SIDES, (3.0, 2.0, 6.0, 5.0), strict=True))
    memory = dict(zip(SIDES, (Memory(10, 20), Memory(10, 15), Memory(10, 50), Memory(10, 40)), strict=True))
    ratios = {
        "engines: VAR / HMAR": Ratio(2.5, 2.4, 2.6, ()),
        "HMAR: eager / engines": Ratio(1.5, None, None, ("few",)),
    }
    found = list(against_var.lines([against_var.Result(2, seconds, {}, ratios, memory)]))
    assert "| 2 | engines, HMAR | 1.000 | 5 B |" in found
    assert "| 2 | seconds, engines: VAR / HMAR | 2.50× (2.40 … 2.60) | 1.75× |" in found
    assert "| 2 | seconds, HMAR: eager / engines | 1.50× ? | – |" in found
    assert "| 2 | memory, engines: VAR / HMAR | 6.00× | 3× |" in found


def test_what_is_no_hmar_model_or_cannot_be_written_is_refused(digits_bundle, tmp_path, capsys):
    weights = Path(__file__).parents[2] / "himar" / "himar" / "weights"
    digits = ["--checkpoint", str(weights / "digits.safetensors"), "--vae", str(weights / "digits-vae.safetensors")]
    assert run_cli(against_var.main, [str(digits_bundle), *digits]) == 1
    assert "is not an HMAR model's bundle; only such a model has VAR's mode" in capsys.readouterr().err
    assert run_cli(against_var.main, [str(digits_bundle), *digits, "--batch", "65"]) == 1
    assert "batch 65 is beyond the bundle's max_batch 64" in capsys.readouterr().err
    assert run_cli(against_var.main, [str(digits_bundle), *digits, "--out", str(tmp_path / "no" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err
