"""The study of solvers recommends a setting: it may not call worse digits as good, nor mix those of other weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.report import beyond, table, worse
from benchmarks.studies.solvers import STUDY
from benchmarks.studies.solvers_settings import trials
from benchmarks.studies.study import DEFAULT, chosen, read
from himar_kernels import InputError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.sampling import choose_sampling


def points(distance: float, recall: float) -> dict[str, dict[str, float]]:
    """Three seeds around these figures."""
    return {
        str(seed): {"distance": distance + seed, "precision": 0.7, "recall": recall - seed / 100, "recognised": 0.98}
        for seed in range(3)
    }


def study(**settings: tuple[float, float]) -> dict[str, Any]:
    found = {DEFAULT: points(30.0, 0.7), **{name: points(*each) for name, each in settings.items()}}
    flops = {trial.name: 1e9 if trial.name == DEFAULT else 2e8 for trial in trials()}
    return {"points": found, "flops": flops, "seconds": {}, "seeds": 3, "images": 300, "held_out": {"images": 360}}


def test_a_mean_beyond_the_default_s_worst_seed_is_worse() -> None:
    found = study(good=(30.9, 0.695), far=(31.1, 0.695), narrow=(20.0, 0.685))
    assert worse(found, "good") == []  # the default's seeds are 30 to 32, and 0.68 to 0.70
    assert worse(found, "far") == ["distance"]
    assert worse(found, "narrow") == ["recall"]


def test_the_table_has_complete_settings_alone_with_their_share_of_the_work() -> None:
    name = trials()[1].name
    found = study(**{name: (20.0, 0.9)})
    found["held_out"] |= found["points"][DEFAULT]["0"]
    found["points"][trials()[2].name] = {"0": found["points"][DEFAULT]["0"]}  # of one seed
    rows = table(found, trials()).splitlines()
    assert len(rows) == 2 + 2 + 1
    assert rows[3].startswith(f"| {name} | 20.0% | 21.0 ± 1.0 | 0.700 ± 0.000 |")
    assert rows[3].endswith("| nothing |")
    assert not any("seconds" in row for row in rows)
    timed = table({**found, "seconds": {DEFAULT: 1.0, name: 0.25}}, trials()).splitlines()
    assert timed[0].startswith("| setting | FLOPs | seconds |") and timed[3].startswith(f"| {name} | 20.0% | 25.0% |")
    assert len({row.count("|") for row in timed}) == 1


def test_differences_are_those_of_the_same_seed() -> None:
    name = trials()[1].name
    found = study(**{name: (32.5, 0.9)})
    found["held_out"] |= found["points"][DEFAULT]["0"]
    found["points"][name]["2"]["distance"] += 0.3
    found["points"][name] = dict(reversed(found["points"][name].items()))  # another order of the same seeds
    assert beyond(found, name, "distance") == pytest.approx([2.8, 2.5, 2.5])
    usual, other, real = (row.split(" | ") for row in table(found, trials(), ["distance"]).splitlines()[2:])
    assert other[-2] == "+2.6 ± 0.2" and usual[-2] == "" and len(usual) == len(other) == len(real)


def test_every_setting_is_one_that_the_digits_can_run_and_has_a_name_of_its_own() -> None:
    usual = SamplingConfig(8, 2, 2.0, 2.5, "constant", 0.9, 32, 32)
    assert trials()[0].name == DEFAULT and not trials()[0].changes
    assert len({trial.name for trial in trials()}) == len(trials())
    for trial in trials():
        choose_sampling({"default": usual}, None, None, trial.changes).check_positions(16, 64)
    with pytest.raises(InputError, match="there is no setting 'euler 4'; there are 'default'"):
        chosen(trials(), ["euler 4"])


def test_a_record_goes_on_without_settings_that_the_study_no_longer_has(tmp_path: Path) -> None:
    path = tmp_path / "digits.json"
    asked = {"weights": "ab", "images": 300, "seeds": 3}
    known = {"study": "solvers", **asked, "points": {DEFAULT: {}, "gone": {}}, "seconds": {}}
    path.write_text(json.dumps(known))
    assert read(path, STUDY, asked)["points"] == {DEFAULT: {}}
    for other in ({"weights": "cd"}, {"images": 200}, {"seeds": 4}):
        with pytest.raises(InputError, match=r"was measured with .*; choose another --out"):
            read(path, STUDY, {**asked, **other})
