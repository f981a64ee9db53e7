"""A wrong count or guidance changes every image, and the C++ runtime plans by the same numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from himar_kernels import InputError
from himar_kernels.families.hi_mar import (
    SamplingConfig,
    guidance_at,
    load_recording,
    masked_counts,
    plan,
    plan_phase,
    recorded_request,
)

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    ("himar-narrow-128", "guided"),
    ("himar-narrow-128", "constant"),
    ("himar-narrow-128", "unguided"),
    ("himar-narrow-256", "guided"),
]


@pytest.mark.parametrize(("recording", "case"), CASES)
def test_counts_and_guidance_are_those_of_the_recorded_runs(recording: str, case: str) -> None:
    arrays = load_recording(GOLDEN / f"{recording}.npz")
    request = recorded_request(arrays, case)
    low_positions = request.low_latent.shape[-1] ** 2
    high_positions = request.latent.shape[-1] ** 2

    steps = plan(request.sampling, low_positions, high_positions)

    assert np.array_equal(np.float32([step.guidance for step in steps]), request.guidance)
    for overall, step in enumerate(steps):
        if step.phase == "low":
            rows = len(arrays[f"{case}/step{overall:03d}/low/init_noise"])
            assert rows == step.revealed * len(request.labels)


def test_counts_of_the_released_schedule() -> None:
    assert masked_counts(256, 4) == (256, 236, 181, 97, 1)
    assert masked_counts(64, 32)[:4] == (64, 63, 62, 61)
    assert masked_counts(1, 1) == (1, 1)


@given(st.integers(1, 700).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_every_step_reveals_something_and_all_is_revealed(sizes: tuple[int, int]) -> None:
    positions, steps = sizes
    plan_of_phase = plan_phase(SamplingConfig(high_steps=steps, high_guidance=2.5), "high", positions)
    assert len(plan_of_phase) == steps
    assert min(step.revealed for step in plan_of_phase) >= 1
    assert sum(step.revealed for step in plan_of_phase) == positions
    left = positions
    for step in plan_of_phase:
        assert step.masked == left
        left -= step.revealed
    assert left == 0


@given(st.floats(0, 20), st.integers(2, 300))
def test_linear_guidance_grows_from_one_to_nearly_the_scale(scale: float, positions: int) -> None:
    values = [guidance_at("linear", scale, positions, masked) for masked in (positions, 1)]
    assert values[0] == 1
    assert math.isclose(values[1], 1 + (scale - 1) * (positions - 1) / positions, rel_tol=1e-6, abs_tol=1e-6)


def test_scale_of_one_is_exactly_one_at_every_step() -> None:
    assert {step.guidance for step in plan(SamplingConfig(), 64, 256)} == {1.0}


@pytest.mark.parametrize("steps", [0, 65])
def test_steps_outside_the_positions_are_refused_with_the_range(steps: int) -> None:
    with pytest.raises(InputError, match=rf"{steps} steps .* 1 to 64"):
        masked_counts(64, steps)


def test_unknown_guidance_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="'cosine'; it must be 'linear' or 'constant'"):
        guidance_at("cosine", 2.0, 64, 3)  # type: ignore[arg-type]


def test_a_single_scale_has_phase_high_alone() -> None:
    sampling = SamplingConfig(low_steps=32, high_steps=5, high_guidance=3.0)
    assert plan(sampling, 0, 25) == plan_phase(SamplingConfig(high_steps=5, high_guidance=3.0), "high", 25)
    with pytest.raises(InputError, match="phase high has only 4 positions"):
        plan(sampling, 0, 4)
