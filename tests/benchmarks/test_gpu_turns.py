"""An hour's whole generations: each round another side is first, and what differs from eager has no time."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.turns import Turns, limit_against_eager, run_in_turns
from himar_export.bench.workload import Sources, load

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
ONES = np.ones(8)


def played(sides: dict, rounds: int, limit: float | None = 1e-3) -> tuple[Turns, list[str], list[dict]]:
    """Run sides, each a list of the latents that it gives in turn, the last again and again; also who ran when."""
    ran, kept = [], []

    def generate(name: str) -> np.ndarray:
        ran.append(name)
        return sides[name][min(ran.count(name), len(sides[name])) - 1]

    turns = Turns(2, limit)
    another = iter([True] * (rounds - 1) + [False])
    run_in_turns(
        {name: lambda name=name: generate(name) for name in sides},
        turns,
        lambda found: next(another),
        lambda found: kept.append(json.loads(json.dumps(found.figures(), allow_nan=False))),
    )
    return turns, ran, kept


def test_every_round_another_side_is_first_and_eager_is_the_first_of_all():
    turns, ran, kept = played({"engines": [ONES], "eager": [ONES], "recorded": [ONES]}, 3)
    assert ran == ["eager", "engines", "recorded", "engines", "recorded", "eager", "recorded", "eager", "engines"]
    assert {side: len(each) for side, each in turns.times.items()} == {"eager": 3, "engines": 3, "recorded": 3}
    assert len(kept) == 9


def test_ratios_are_of_the_rounds_after_the_first_as_far_as_both_sides_have_them():
    turns = Turns(2, None, {"eager": [100.0, 6.0, 8.0], "engines": [1.0, 2.0, 2.0, 2.0], "recorded": [1.0]})
    found = turns.figures()
    assert set(found["ratios"]) == {"engines"} and found["cold"] == ["recorded"]
    assert found["ratios"]["engines"]["value"] == 3.5 and found["ratios"]["engines"]["low"] is None
    assert found["ratios"]["engines"]["doubts"][0].startswith("2 rounds are too few for an interval")
    assert found["seconds_per_image"] == {"eager": 3.5, "engines": 1.0, "recorded": 0.5}
    assert "latents are not comparable" in found["not_comparable"] and found["limit"] is None


def test_a_side_that_differs_has_no_time_and_runs_no_more():
    turns, ran, kept = played({"eager": [ONES], "engines": [1.01 * ONES], "recorded": [ONES]}, 2)
    assert ran == ["eager", "engines", "recorded", "recorded", "eager"]
    assert "engines" not in turns.times and "engines" not in kept[-1]["seconds"]
    assert turns.refused == {"engines": "its latents are 1.00e-02 from eager's, beyond the limit of 1.0e-03"}
    assert turns.apart == {"engines": pytest.approx(0.01), "recorded": 0}
    assert "not_comparable" not in kept[-1]


def test_runs_of_a_side_are_compared_bit_for_bit():
    almost = ONES.copy()
    almost[3] += 1e-12
    turns, _, kept = played({"eager": [ONES], "engines": [ONES, ONES, almost, ONES], "recorded": [ONES]}, 4)
    assert kept[0]["bit_equal"] == {}  # after one run there is nothing to compare
    assert turns.bit_equal == {"eager": True, "engines": False, "recorded": True}
    assert set(turns.times) == {"eager", "engines", "recorded"}  # close enough to eager's, if not to its own


def test_a_side_that_differs_later_loses_the_times_it_had():
    turns, _, kept = played({"eager": [ONES], "engines": [ONES, 2 * ONES]}, 2)
    assert len(kept[1]["seconds"]["engines"]) == 1
    assert set(turns.times) == {"eager"} and "beyond the limit" in turns.refused["engines"]


@pytest.mark.parametrize("limit", [1e-3, None])
def test_latents_have_to_be_finite_whatever_the_limit(limit):
    turns, _, _ = played({"eager": [ONES], "engines": [ONES * np.nan], "recorded": [ONES[:4]]}, 1, limit)
    assert set(turns.refused) == {"engines", "recorded"} and turns.apart == {}
    assert set(turns.refused.values()) == {"its latents are not all finite, or of another shape than eager's"}
    turns, ran, _ = played({"eager": [ONES * np.nan], "engines": [ONES]}, 3, limit)
    assert ran == ["eager"] and not turns.times  # there is nothing to compare with


def test_without_a_limit_latents_may_be_anything_finite():
    turns, _, kept = played({"eager": [ONES], "engines": [3 * ONES]}, 1, None)
    assert set(turns.times) == {"eager", "engines"} and turns.apart == {"engines": 2}
    assert kept[-1]["limit"] is None and "rounding alone decides" in kept[-1]["not_comparable"]


def limit(bundle: Path, **changes: int) -> float | None:
    sources = Sources(bundle, WEIGHTS / "digits.safetensors", None, None, None, "cpu", None, None, changes)
    return limit_against_eager(load(sources, 1))


def test_the_limit_is_that_of_verify_and_in_half_precision_of_both_sides(digits_bundle, digits_fp16_bundle):
    released = {"low_diffusion_steps": 250, "high_diffusion_steps": 250}
    assert limit(digits_bundle, **released) == pytest.approx(1e-4, rel=0.01)
    assert limit(digits_bundle) > 5e-4  # of a chain of 32 steps, which magnifies more
    assert limit(digits_fp16_bundle, **released) == pytest.approx(2 * 5e-3, rel=0.01)
    assert limit(digits_fp16_bundle, low_diffusion_steps=2, high_diffusion_steps=2) is None
