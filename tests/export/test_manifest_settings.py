"""Named settings in a manifest: a reader that knows no solvers must never take a solver's steps for its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from himar import load_checkpoint
from himar_export.families.hi_mar.family import calibration_sampling, sampling_keys
from himar_kernels.families.hi_mar import SamplingConfig

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights" / "digits.safetensors"
PAPER = SamplingConfig(low_guidance=2.7, high_guidance=2.5)
FAST = SamplingConfig(low_diffusion_steps=6, high_diffusion_steps=8, high_solver="dpm++")


def test_without_solvers_a_manifest_is_what_it_was() -> None:
    keys, schema = sampling_keys({"paper": PAPER, "quick": SamplingConfig(low_steps=8)})
    assert schema == "1.0"
    assert list(keys) == ["sampling"] and list(keys["sampling"]) == ["paper", "quick"]
    assert not {"low_solver", "high_solver"} & keys["sampling"]["paper"].keys()


def test_settings_with_solvers_stand_apart() -> None:
    keys, schema = sampling_keys({"paper": PAPER, "fast": FAST, "quick": SamplingConfig(low_steps=8)})
    assert schema == "1.2"
    assert list(keys["sampling"]) == ["paper", "quick"]
    assert list(keys["solver_sampling"]) == ["fast"]
    assert SamplingConfig.from_dict(keys["solver_sampling"]["fast"]) == FAST


FORECAST = SamplingConfig(high_forecast=8)


def test_settings_that_leave_evaluations_out_stand_apart_from_both() -> None:
    both = SamplingConfig(high_diffusion_counts=(8, 8, 4, 4), high_solver="dpm++")
    named = {"paper": PAPER, "fast": FAST, "forecast": FORECAST, "both": both}
    keys, schema = sampling_keys(named)
    assert schema == "1.3"
    assert {key: list(each) for key, each in keys.items()} == {
        "sampling": ["paper"],
        "solver_sampling": ["fast"],
        "forecast_sampling": ["forecast", "both"],
    }
    assert SamplingConfig.from_dict(keys["forecast_sampling"]["both"]) == both
    assert sampling_keys(named, "4.0")[1] == "4.1"
    keys, schema = sampling_keys({"fast": FAST, "paper": PAPER, "forecast": FORECAST})
    assert (schema, list(keys["sampling"])) == ("2.1", ["fast", "paper"])


def test_a_default_that_leaves_evaluations_out_is_refused_by_every_reader_before() -> None:
    keys, schema = sampling_keys({"forecast": FORECAST, "fast": FAST, "paper": PAPER}, "4.0")
    assert schema == "5.0"
    assert {key: list(each) for key, each in keys.items()} == {"sampling": ["forecast", "fast", "paper"]}


@pytest.mark.parametrize("others", [{}, {"paper": PAPER}])
def test_a_default_with_a_solver_is_refused_by_every_reader_before(others: dict[str, SamplingConfig]) -> None:
    keys, schema = sampling_keys({"fast": FAST, **others})
    assert schema == "2.0"
    assert list(keys) == ["sampling"] and next(iter(keys["sampling"])) == "fast"


def test_a_default_with_lists_is_cut_to_few_steps_for_int8() -> None:
    """The calibration's steps are fewer than the lists have values."""
    model = load_checkpoint(WEIGHTS)
    default = next(iter(model.config.sampling.values()))
    listed = default.with_changes(high_steps=4, high_diffusion_counts=(50, 40, 30, 20), high_guidances=(1, 2, 2, 2))
    expected = calibration_sampling(model)
    model.config = replace(model.config, sampling={"listed": listed})
    assert calibration_sampling(model) == expected
