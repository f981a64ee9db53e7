"""Settings and schedules: what is refused, in which words, and the forwards that a schedule makes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from himar_kernels import ConfigError, InputError
from himar_kernels.families.hmar import RELEASED_SCHEDULE, SamplingConfig, Scales, plan, recorded_settings

GOLDEN = Path(__file__).parents[2] / "golden"
SCALES = Scales([1, 2, 3, 6, 9])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 0}, "top_p is 0; it must be above 0 and at most 1, where 1 keeps every code"),
        ({"top_p": 1.01}, "top_p is 1.01; it must be above 0 and at most 1"),
        ({"top_p": math.nan}, "top_p is nan; it must be above 0"),
        ({"top_p": "0.9"}, "top_p is '0.9'; it must be a number"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number"),
        ({"guidance": -0.1}, "guidance is -0.1; it must be a number from 0 to 1000000"),
        ({"guidance": math.inf}, "guidance is inf"),
        ({"mask_guidance": 1e300}, "mask_guidance is 1e\\+300; it must be a number from 0 to 1000000"),
        ({"guidance": 10**400}, "guidance is inf"),
        ({"guidance": True}, "guidance is True; it must be a number"),
        ({"mask_guidance": -1}, "mask_guidance is -1.0"),
        ({"schedule": 3}, r"schedule is 3; give a list of counts for each scale, for example \[\[1\], \[1, 3\]\]"),
        ({"schedule": [1, 3]}, "schedule of scale 0 is 1; give a list of counts"),
        ({"schedule": [[1], []]}, r"schedule of scale 1 is \[\]; give a list of counts"),
        ({"schedule": [[1], [1, 0, 3]]}, "schedule of scale 1 is 0; it must be at least 1"),
        ({"schedule": [[1], [1, 2.5]]}, "schedule of scale 1 is 2.5; it must be a whole number"),
        ({"all_scales": True, "schedule": [[1], [1, 3]]}, "all_scales is set, but masked steps are not defined"),
        ({"smooth": True, "schedule": [[1], [1, 3]]}, "smooth is set, but masked steps are not defined"),
        ({"all_scales": 1}, "all_scales is 1; it must be true or false"),
    ],
)
def test_settings_that_are_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingConfig(**settings)
    with pytest.raises(ConfigError, match=f"sampling 'x': {message}"):
        SamplingConfig.from_dict(settings, "sampling 'x'")


def test_an_unknown_setting_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="sampling: unknown key 'temperature'; known keys: all_scales, guidance"):
        SamplingConfig.from_dict({"temperature": 1})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([[1], [1, 2]], r"schedule of scale 1 is \[1, 2\], which sums to 3, but the scale has 4 cells"),
        (
            [[1], [4], [1, 1, 2, 6]],
            r"schedule of scale 2 is \[1, 1, 2, 6\], which sums to 10, but the scale has 9 cells",
        ),
        ([[0, 1]], r"schedule of scale 0 is \[0, 1\], but that scale has no masked steps; give \[1\]"),
        ([[1], [4], [9], [36], [81], [100]], "schedule has lists for 6 scales, but the model has 5"),
    ],
)
def test_a_schedule_that_does_not_fit_the_scales(schedule: list, message: str) -> None:
    sampling = SamplingConfig(schedule=schedule)
    for check in (lambda: plan(sampling, SCALES), lambda: sampling.check_model(SCALES, 4096)):
        with pytest.raises(InputError, match=message):
            check()


def test_more_codes_than_the_model_has() -> None:
    with pytest.raises(InputError, match=r"top_k is 900, but the model has 144 codes; ask for 0 \(all\) to 144"):
        SamplingConfig().check_model(SCALES, 144)
    SamplingConfig(top_k=144).check_model(SCALES, 144)


@pytest.mark.parametrize("name", ["hmar-narrow-144", "hmar-narrow-256"])
def test_forwards_of_the_recorded_runs(name: str) -> None:
    described = json.loads((GOLDEN / f"{name}.json").read_text())
    scales = Scales(described["config"]["patch_nums"])
    for settings in described["sampling"].values():
        sampling = SamplingConfig.from_dict(recorded_settings(settings))
        assert len(plan(sampling, scales)) == settings["forwards"]
        assert sampling.masks == settings["mask"]


def test_the_forwards_of_a_schedule() -> None:
    forwards = plan(SamplingConfig(guidance=2.0, schedule=RELEASED_SCHEDULE), SCALES)
    assert [(each.scale, each.step, each.redrawn, each.remasked) for each in forwards] == [
        (0, 0, 1, 0),
        (1, 0, 4, 3), (1, 1, 3, 0),
        (2, 0, 9, 8), (2, 1, 8, 7), (2, 2, 7, 5), (2, 3, 5, 0),
        (3, 0, 36, 0), (4, 0, 81, 0),
    ]  # fmt: skip
    assert [each.guidance for each in forwards] == [0, 0.5, 2e-6, 1.0, 2e-6, 2e-6, 2e-6, 1.5, 2.0]
    assert [each.halves for each in forwards] == [1] + [2] * 8
    assert [each.index for each in forwards] == list(range(9))


def test_rows_follow_the_guidance() -> None:
    lean = SamplingConfig(guidance=2.0, mask_guidance=0.0, schedule=RELEASED_SCHEDULE)
    assert [each.halves for each in plan(lean, SCALES)] == [1, 2, 1, 2, 1, 1, 1, 2, 2]
    assert {each.halves for each in plan(SamplingConfig(guidance=0), SCALES)} == {1}
    assert {each.halves for each in plan(SamplingConfig(guidance=1, all_scales=True), SCALES)} == {2}
    assert {each.halves for each in plan(SamplingConfig(guidance=0, all_scales=True), SCALES)} == {1}


def test_settings_survive_json_and_numpy_numbers() -> None:
    sampling = SamplingConfig(np.float32(1.5), np.int64(30), np.float64(0.9), [[1], [np.int32(1), 3]])
    assert SamplingConfig.from_dict(json.loads(json.dumps(sampling.to_dict()))) == sampling
    assert sampling.with_changes(top_k=None, schedule=[]) == SamplingConfig(1.5, 30, 0.9)


def test_recorded_spellings() -> None:
    off = recorded_settings(
        {"cfg": 2, "top_p": 0.0, "mask": False, "schedule": [[1], [1, 3]], "batch": 3, "forwards": 5}
    )
    assert SamplingConfig.from_dict(off) == SamplingConfig(guidance=2.0, top_p=1.0)
