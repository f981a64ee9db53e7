"""What is left out of a chain must be decided by indices alone, and forecast as the formulas say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from himar_kernels import InputError
from himar_kernels.families.hi_mar import Evaluations, Predictions, SamplingConfig, guided, plan
from tests.closeness import assert_near

C, ROWS = 3, 4


@given(
    st.builds(
        Evaluations,
        interval=st.integers(1, 20),
        first=st.integers(1, 12),
        last=st.integers(1, 6),
        guidance_interval=st.integers(1, 5),
    ),
    st.integers(2, 300),
    st.integers(1, 2),
)
def test_a_chain_s_ends_are_evaluated_and_every_nth_index_between(each: Evaluations, steps: int, halves: int) -> None:
    found = each.halves(steps, halves)
    evaluated = [k for k in range(steps - 1, -1, -1) if found[k]]
    places = [steps - 1 - k for k in evaluated]
    assert set(range(min(each.first, steps))) <= set(places)
    assert set(range(max(0, steps - each.last), steps)) <= set(places)
    between = [place for place in places if each.first <= place < steps - each.last]
    assert between == list(range(each.first, steps - each.last, each.interval))
    assert [found[k] for k in evaluated] == [
        halves if count % each.guidance_interval == 0 else 1 for count in range(len(evaluated))
    ]


def test_the_evaluations_of_the_forecast_setting() -> None:
    every_eighth = Evaluations(interval=8).halves(250, 2)
    assert (sum(map(bool, every_eighth)), sum(every_eighth)) == (41, 82)
    assert sum(Evaluations(interval=8, guidance_interval=2).halves(250, 2)) == 62
    assert Evaluations().halves(5, 1) == (1,) * 5


@pytest.mark.parametrize(("order", "degree"), [(0, 0), (1, 1), (2, 2)])
def test_a_polynomial_of_the_order_is_forecast_exactly_but_for_the_last_gap(order: int, degree: int) -> None:
    """With equal gaps the differences of D_o are those of the polynomial; order 1 continues a line exactly."""
    predictions = Predictions(Evaluations(interval=4, order=order), 1.0, C)

    def noise(k: int) -> np.ndarray:
        return np.full((ROWS, C), sum(float(k) ** power for power in range(degree + 1)), np.float32)

    for k in (24, 20, 16, 12):
        predictions.at(k, noise(k), ROWS)
    found, guidance = predictions.at(10, None, ROWS)
    assert guidance == 1
    if degree < 2:
        np.testing.assert_array_equal(found, noise(10))
    else:  # D_1 is the slope in the middle of the last gap: a parabola is missed by x·d/2 times its second derivative
        np.testing.assert_array_equal(noise(10) - found, np.full((ROWS, C), 8.0))


def test_the_formulas_in_float64() -> None:
    rng = np.random.default_rng(3)
    first, second, third = (rng.normal(size=(ROWS, C)) for _ in range(3))
    predictions = Predictions(Evaluations(interval=3, order=2), 1.0, C)
    for k, noise in ((30, first), (28, second), (25, third)):
        predictions.at(k, noise.astype(np.float32), ROWS)
    slope_before, slope = (second - first) / -2, (third - second) / -3
    curvature = (slope - slope_before) / -3
    for k in (24, 23):
        x = k - 25
        found, _ = predictions.at(k, None, ROWS)
        assert_near(found, third + slope * x + curvature * x**2 / 2, 1e-6)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_conditional_half_alone_takes_the_difference_that_was_kept(outputs: int, kind: str) -> None:
    rng = np.random.default_rng(5)
    both = rng.normal(size=(2 * ROWS, outputs * C)).astype(np.float32)
    alone = rng.normal(size=(ROWS, outputs * C)).astype(np.float32)
    given_both, given_alone = (torch.from_numpy(each) if kind == "torch" else each for each in (both, alone))
    predictions = Predictions(Evaluations(guidance_interval=2), 2.5, C)
    settled, guidance = predictions.at(9, given_both, ROWS)
    assert guidance == 1
    np.testing.assert_array_equal(np.asarray(settled)[:, :C], guided(both[:, :C], 2.5))
    np.testing.assert_array_equal(np.asarray(settled)[:, C:], both[:ROWS, C:])
    settled, _ = predictions.at(8, given_alone, ROWS)
    gap = both[:ROWS, :C] - both[ROWS:, :C]
    np.testing.assert_array_equal(np.asarray(settled)[:, :C], alone[:, :C] + np.float32(1.5) * gap)
    np.testing.assert_array_equal(np.asarray(settled)[:, C:], alone[:, C:])
    if kind == "numpy":
        assert settled is not given_alone


def test_nothing_is_copied_where_every_index_is_evaluated() -> None:
    prediction = np.ones((2 * ROWS, C), np.float32)
    found, guidance = Predictions(Evaluations(), 2.0, C).at(3, prediction, ROWS)
    assert found is prediction
    assert guidance == 2.0


def test_what_a_loop_may_not_ask_for() -> None:
    with pytest.raises(InputError, match="no prediction at k = 7, where every index is evaluated"):
        Predictions(Evaluations(), 2.0, C).at(7, None, ROWS)
    with pytest.raises(InputError, match="noise at k = 7 is to be forecast, but nothing was evaluated"):
        Predictions(Evaluations(interval=4), 2.0, C).at(7, None, ROWS)
    with pytest.raises(InputError, match="conditional half ran alone at k = 7"):
        Predictions(Evaluations(guidance_interval=4), 2.0, C).at(7, np.ones((ROWS, C), np.float32), ROWS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"high_forecast": 0}, "high_forecast is 0; it must be 1 to 1000"),
        ({"low_forecast": 2.5}, "low_forecast is 2.5; it must be a whole number"),
        ({"high_forecast": 4, "forecast_order": 3}, "forecast_order is 3; it must be 0 to 2"),
        ({"forecast_order": 0}, "forecast_order is 0, but no phase is forecast; set low_forecast or high_forecast"),
        ({"forecast_first": 5}, "forecast_first is 5, but no phase is forecast"),
        ({"forecast_last": 5}, "forecast_last is 5, but no phase is forecast"),
        ({"high_forecast": 8, "forecast_order": 2}, "high_forecast is 8 and forecast_order is 2, which diverges"),
        ({"guidance_interval": 0}, "guidance_interval is 0; it must be 1 to 1000"),
        ({"least_guidance": -1.0}, "least_guidance is -1.0; it must be a number from 0 to 1000000"),
        ({"high_diffusion_counts": [250, 50]}, "high_diffusion_counts has 2 counts, but high_steps is 4; give one for"),
        ({"high_diffusion_counts": [250, 50, 50, 1]}, r"high_diffusion_counts\[3\] is 1; it must be 2 to 1000"),
        ({"high_diffusion_counts": [250]}, "high_diffusion_counts has 1 count, but high_steps is 4"),
        ({"high_diffusion_counts": [[250], 50, 50, 50]}, r"high_diffusion_counts\[0\] is \[250\]; it must be a whole"),
        ({"high_diffusion_counts": np.array(250)}, r"high_diffusion_counts is array\(250\); it must be a list"),
        ({"low_guidances": "1,2"}, "low_guidances is '1,2'; it must be a list"),
        ({"high_guidances": [1, 2, 3, math.nan]}, r"high_guidances\[3\] is nan; it must be a number from 0 to 1000000"),
    ],
)
def test_settings_that_say_nothing_or_too_much_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingConfig(**values)


def test_counts_and_guidance_of_every_step() -> None:
    sampling = SamplingConfig(
        low_steps=2,
        high_diffusion_counts=[250, 183, 116, 50],
        low_guidances=(1.5, 3),
        high_guidance=2.5,
        least_guidance=1.2,
    )
    steps = plan(sampling, 64, 256)
    assert [step.diffusion_steps for step in steps] == [100, 100, 250, 183, 116, 50]
    assert [step.guidance for step in steps[:2]] == [1.5, 3.0]
    assert [step.halves for step in steps[2:]] == [1, 2, 2, 2]  # the first of them would have 1.117
    assert steps[2].guidance == 1


def test_a_change_to_what_a_list_replaces_takes_the_list_away() -> None:
    listed = SamplingConfig(
        high_steps=2, high_diffusion_counts=(50, 20), high_guidances=(1.0, 2.0), low_diffusion_counts=(9,) * 32
    )
    assert listed.with_changes(high_diffusion_steps=30).high_diffusion_counts == ()
    assert listed.with_changes(high_diffusion_steps=30).low_diffusion_counts == (9,) * 32
    assert listed.with_changes(high_guidance=3.0).high_guidances == ()
    assert listed.with_changes(guidance_schedule="constant").high_guidances == ()
    assert listed.with_changes(temperature=0.9).high_diffusion_counts == (50, 20)
    with pytest.raises(InputError, match="high_diffusion_counts has 2 counts, but high_steps is 3"):
        listed.with_changes(high_steps=3)


def test_what_earlier_readers_do_not_know_is_written_where_it_differs() -> None:
    plain = SamplingConfig()
    assert set(plain.to_dict()) == {
        "low_steps", "high_steps", "low_guidance", "high_guidance", "guidance_schedule", "temperature",
        "low_diffusion_steps", "high_diffusion_steps",
    }  # fmt: skip
    assert not plain.needs_evaluations
    every = plain.with_changes(high_forecast=8, high_diffusion_counts=(8, 8, 6, 4))
    assert every.needs_evaluations
    assert every.to_dict()["high_diffusion_counts"] == [8, 8, 6, 4]
    assert SamplingConfig.from_dict(every.to_dict()) == every


@given(
    st.builds(
        Evaluations,
        interval=st.integers(1, 20),
        first=st.integers(1, 12),
        last=st.integers(1, 6),
        guidance_interval=st.integers(1, 5),
        modulation_interval=st.integers(1, 7),
    ),
    st.integers(2, 300),
    st.integers(1, 2),
)
def test_modulations_are_those_of_a_group_s_first_evaluation(each: Evaluations, steps: int, halves: int) -> None:
    ran = each.halves(steps, halves)
    timesteps = np.arange(steps, dtype=np.int64) * 3
    held, made = each.held_timesteps(timesteps, ran), each.modulated(ran)
    evaluated = [k for k in range(steps - 1, -1, -1) if ran[k]]
    there, timestep = 0, -1
    for number, k in enumerate(evaluated):
        first = evaluated[number - number % each.modulation_interval]
        assert held[k] == timesteps[first]
        if made[k]:
            there, timestep = made[k], int(held[k])
        # What a loop holds is enough, and of the timestep that the head is to take.
        assert there >= ran[k] and timestep == held[k]
        assert made[k] or k != first
    assert all(held[k] == timesteps[k] and not made[k] for k in range(steps) if not ran[k])


def test_held_modulations_of_the_settings_that_are_measured() -> None:
    every_eighth = Evaluations(interval=8, modulation_interval=2)
    ran = every_eighth.halves(250, 2)
    assert sum(every_eighth.modulated(ran)) == 42  # of 82 halves
    both = Evaluations(interval=8, guidance_interval=2, modulation_interval=4)
    assert sum(both.modulated(both.halves(250, 2))) == 22  # of 62
    # One half first, and both after it in the same group: those are made again.
    assert Evaluations(guidance_interval=2, modulation_interval=3).modulated((1, 2, 1, 2, 1, 2)) == (0, 2, 1, 0, 0, 2)
    timesteps = np.array([0, 4, 8, 12], np.int64)
    assert Evaluations(modulation_interval=3).held_timesteps(timesteps, (1,) * 4).tolist() == [0, 12, 12, 12]
