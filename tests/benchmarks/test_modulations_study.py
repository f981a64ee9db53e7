"""The study of held modulations: its settings run, its drift is that of the head's own modulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.studies import modulation_drift, modulations
from benchmarks.studies.study import DEFAULT
from himar.families.hi_mar.dit_head import DiTHead
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.shared.console import run_cli


def test_the_settings_hold_what_they_say() -> None:
    known = modulations.settings()
    assert known[0].name == DEFAULT and len({each.name for each in known}) == len(known) == 6
    made = {}
    for each in known:
        sampling = SamplingConfig(8, 2).with_changes(**each.changes)
        evaluations = sampling.evaluations("high")
        made[each.name] = sum(map(bool, evaluations.modulated(evaluations.halves(250, 2))))
    assert made == {DEFAULT: 250, "H 2": 125, "H 4": 63, "N 4, 8": 41, "N 4, 8; H 2": 21, "N 4, 8; H 4": 11}


def test_drift_is_that_of_the_head_s_modulations() -> None:
    torch.manual_seed(0)
    head = DiTHead(channels=3, depth=2, width=16, heads=2, condition_width=5, grid=2).eval()
    condition, timesteps = torch.randn(6, 16), np.array([0, 4, 9, 500])
    found = modulation_drift.drift(head, condition, timesteps, (1, 3))
    assert {gap: len(values) for gap, values in found.items()} == {1: 3, 3: 1}
    seen: list[torch.Tensor] = []
    layers = [*(block.adaLN_modulation[1] for block in head.blocks), head.final_layer.adaLN_modulation[1]]
    for layer in layers:
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        for timestep in (500, 0):
            head.denoise(torch.randn(1, 4, 3), torch.tensor([timestep]), condition[None, :4])
        top, bottom = (torch.cat(each, dim=-1) for each in (seen[:3], seen[3:]))
        expected = float((bottom - top).abs().sum() / top.abs().sum())
        alone = modulation_drift.drift(head, condition[:4], timesteps, (3,))
    assert alone[3][0] == pytest.approx(expected, rel=1e-5)


def test_the_command_prints_every_gap(capsys) -> None:
    assert run_cli(modulation_drift.main, ["--images", "10"]) == 0
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[2:] == [f"| {gap}" for gap in modulation_drift.GAPS]
