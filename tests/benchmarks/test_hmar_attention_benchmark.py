"""The benchmark of HMAR's attention in training: ratios follow from its times, and both ways are the same network."""

from __future__ import annotations

import json
from statistics import median

import pytest
import torch
from click.testing import CliRunner

from benchmarks.training import hmar_attention
from tests.himar.hmar import tiny_training as tiny


def invoke(tmp_path, *arguments: str):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.SIZES))
    common = ["--config", str(tmp_path / "tiny.json"), "--batch", "2", "--repeats", "3"]
    return CliRunner().invoke(hmar_attention.main, [*common, *arguments])


def test_ratios_follow_from_times_that_were_taken_in_turns(tmp_path):
    done = invoke(tmp_path, "--out", str(tmp_path / "x.json"))
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "x.json").read_text())
    scales, dense = (result["seconds"][name] for name in ("scales", "dense"))
    assert len(scales) == len(dense) == 3
    assert result["dense/scales"]["medians"] == pytest.approx(median(dense) / median(scales))
    assert result["dense/scales"]["fastest"] == pytest.approx(min(dense) / min(scales))
    assert "scale by scale" in done.output


def test_networks_that_differ_are_not_timed(tmp_path, monkeypatch):
    def see_all(self, x):
        return [torch.nn.functional.scaled_dot_product_attention] * self.config.depth

    monkeypatch.setattr(hmar_attention.DenseBias, "_each_scale", see_all)
    done = invoke(tmp_path)
    assert done.exit_code == 1
    assert "the ways differ in their losses" in done.output
