"""The study of forecasts: every setting runs, a small run reaches the engines, and what it lifts is refused again."""

from __future__ import annotations

import json

import pytest

from benchmarks.studies import forecast
from benchmarks.studies.forecast import trials
from benchmarks.studies.study import DEFAULT
from himar_kernels import InputError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.sampling import choose_sampling
from himar_kernels.shared.console import run_cli

USUAL = SamplingConfig(8, 2, 2.0, 2.0, "constant", 0.85, 32, 32)
REFUSED = ("N 4, 8; order 2", "high chain 100; N 4, 8; order 2")
DIVERGES = REFUSED[-1]


def test_every_setting_but_the_refused_one_is_one_that_the_digits_can_run() -> None:
    names = [trial.name for trial in trials()]
    assert names[0] == DEFAULT and len(set(names)) == len(names) and set(REFUSED) < set(names)
    for trial in trials():
        if trial.name in REFUSED:
            with pytest.raises(InputError, match="which diverges over such gaps: 33 % of the digits"):
                choose_sampling({"default": USUAL}, None, None, trial.changes)
        else:
            choose_sampling({"default": USUAL}, None, None, trial.changes).check_positions(16, 64)


def test_a_small_run_measures_what_settings_refuse_too(digits_bundle, tmp_path) -> None:
    out, names = tmp_path / "digits", (DEFAULT, "N 16", DIVERGES)
    only = [each for name in names for each in ("--only", name)]
    assert run_cli(forecast.main, [str(digits_bundle), "--out", str(out), "--images", "10", "--seeds", "1", *only]) == 0
    record = json.loads((tmp_path / "digits.json").read_text())
    assert list(record["points"]) == list(names) and record["study"] == "forecast"
    assert record["points"][DIVERGES]["0"]["distance"] > 2 * record["points"][DEFAULT]["0"]["distance"]
    assert record["flops"][DIVERGES] < record["flops"]["N 16"] < record["flops"][DEFAULT] / 4
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert "| N 16 |" in (tmp_path / "digits.md").read_text()
    with pytest.raises(InputError, match="which diverges"):
        SamplingConfig(high_forecast=8, forecast_order=2)
