"""What lies between the networks must be Python's in C++ too: orders, plans and words bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from himar_kernels import PhiloxDraws
from himar_kernels.arithmetic.philox import philox_words
from himar_kernels.families import hmar
from himar_kernels.families.hi_mar import SamplingConfig, build_chain, chain_table, plan
from himar_kernels.families.hi_mar.sampling import Solver
from tests.closeness import assert_each_near, assert_rounded


@pytest.fixture(scope="module")
def arithmetic(run: Any, built: Path) -> Any:
    """What the C++ loop's arithmetic gives for a command line."""
    return lambda *arguments: json.loads(run(built / "tests" / "himar_arithmetic", *map(str, arguments)))


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
@pytest.mark.parametrize(("phase", "positions"), [("low", 16), ("high", 64), ("high", 256)])
def test_orders_are_pythons_to_the_bit(arithmetic: Any, seed: int, phase: str, positions: int) -> None:
    images = [0, 1, 63, 2**32 - 1]
    ranks = np.array(arithmetic("ranks", seed, int(phase == "high"), positions, *images)).reshape(4, positions)
    order = PhiloxDraws(seed).order(phase, positions, np.array(images))
    assert np.array_equal(np.argsort(ranks, axis=1), order)


def test_philox_words_and_normals_are_pythons(arithmetic: Any) -> None:
    random = np.random.default_rng(1)
    for _ in range(8):
        seed = int(random.integers(2**64, dtype=np.uint64))
        counter = [int(word) for word in random.integers(2**32, size=4)]
        wanted = [int(word[0]) for word in philox_words(*(np.array([c], np.uint64) for c in counter), seed)]
        assert arithmetic("philox", seed, *counter) == wanted
        step, k, image, position = (int(value) for value in random.integers(200, size=4))
        drawn = PhiloxDraws(seed).noise("high", step, [k], np.array([image]), np.array([[position]]), 8)[0, 0, 0, 4:]
        assert_each_near(arithmetic("normals", seed, 1, step, k, image, position, 1), drawn, 1e-6)


def assert_same_plan(arithmetic: Any, sampling: SamplingConfig, S: int, N: int) -> None:
    wanted = [
        [int(s.phase == "high"), s.index, s.masked, s.masked_after, s.revealed, s.guidance]
        + [list(sampling.evaluations(s.phase).halves(s.diffusion_steps, s.halves))]
        for s in plan(sampling, S, N)
    ]
    assert arithmetic("plan", S, N, json.dumps(sampling.to_dict())) == wanted


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize(
    ("S", "N", "low", "high"), [(16, 64, 8, 2), (64, 256, 32, 4), (64, 256, 64, 7), (4, 16, 1, 16)]
)
def test_plans_are_pythons_to_the_bit(arithmetic: Any, S: int, N: int, low: int, high: int, schedule: str) -> None:
    steps = {"low_steps": low, "high_steps": high, "guidance_schedule": schedule}
    assert_same_plan(arithmetic, SamplingConfig(**steps, low_guidance=2.3, high_guidance=4.7), S, N)


@pytest.mark.parametrize(
    "settings",
    [
        {"high_forecast": 8},
        {"low_forecast": 4, "high_forecast": 2, "forecast_order": 2, "forecast_first": 1, "forecast_last": 1},
        {"guidance_interval": 3, "least_guidance": 1.8},
        {"low_forecast": 1000, "high_forecast": 7, "forecast_first": 1000, "guidance_interval": 2},
        {"low_diffusion_counts": [40, 9, 2, 1000], "low_guidances": [1, 1.5, 0.3, 3], "high_forecast": 5},
        {"high_diffusion_counts": [250, 50], "high_guidances": [0.1, 2.3], "least_guidance": 0.2},
    ],
    ids=str,
)
def test_plans_that_leave_evaluations_out_are_pythons(arithmetic: Any, settings: dict[str, Any]) -> None:
    sampling = SamplingConfig(low_steps=4, high_steps=2).with_changes(low_guidance=2.3, high_guidance=4.7, **settings)
    assert_same_plan(arithmetic, sampling, 16, 64)


@pytest.mark.parametrize(
    "settings",
    [
        {"modulation_interval": 3},
        {"high_forecast": 8, "modulation_interval": 2},
        {"high_forecast": 3, "guidance_interval": 2, "modulation_interval": 3, "high_diffusion_steps": 60},
        {"high_guidance": 1.0, "high_solver": "dpm++", "modulation_interval": 1000, "high_diffusion_steps": 7},
    ],
    ids=str,
)
def test_where_modulations_are_made_and_of_which_timestep_is_pythons(arithmetic: Any, settings: dict[str, Any]) -> None:
    sampling = SamplingConfig(high_guidance=2.5).with_changes(**settings)
    evaluations, chain = sampling.evaluations("high"), build_chain(sampling.high_solver, sampling.high_diffusion_steps)
    halves = evaluations.halves(len(chain), 1 if sampling.high_guidance == 1 else 2)
    timesteps = evaluations.held_timesteps(chain.timesteps, halves).tolist()
    assert timesteps != chain.timesteps.tolist()
    wanted = {"modulated": list(evaluations.modulated(halves)), "timesteps": timesteps}
    assert arithmetic("held", json.dumps(sampling.to_dict())) == wanted


@pytest.mark.parametrize("solver", get_args(Solver))
@pytest.mark.parametrize("steps", [2, 8, 25, 100, 250, 1000])
def test_chains_are_pythons_to_a_rounding(arithmetic: Any, solver: Solver, steps: int) -> None:
    found, chain = arithmetic("chain", solver, steps), build_chain(solver, steps)
    assert found["timesteps"] == chain.timesteps.tolist()
    table = np.array(found["table"], np.float32).reshape(steps, 8)
    assert_rounded(table, chain_table(chain), 8)


SIDES = [[1, 2, 3, 6, 9], [1, 2, 3, 4, 5, 6, 8, 10, 13, 16], [2, 2, 7], [1, 2, 3, 4, 6, 9, 13, 18, 24, 32]]


@pytest.mark.parametrize("sides", SIDES, ids=len)
def test_maps_between_scales_are_pythons_to_the_bit(arithmetic: Any, sides: list[int]) -> None:
    scales = hmar.Scales(sides)
    for scale, found in enumerate(arithmetic("hmar-maps", *sides)):
        assert np.array_equal(np.array(found["down"], np.float32), scales.down(scale).ravel())
        assert np.array_equal(np.array(found["up"], np.float32), scales.up(scale).ravel())
        assert found["convolution"] == scales.convolution(scale)


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": 1.7, "schedule": [[1], [1, 3], [1, 1, 2, 5]]},
        {"guidance": 0.0, "schedule": [[1], [0, 4]]},
        {"guidance": 1.9, "mask_guidance": 0.0, "schedule": [[1], [1, 3]]},
        {"guidance": 2.1, "all_scales": True},
        {"guidance": 0.0, "all_scales": True},
    ],
    ids=str,
)
def test_plans_of_hmar_are_pythons_to_the_bit(arithmetic: Any, settings: dict[str, Any]) -> None:
    for sides in (SIDES[0], SIDES[1]):
        forwards = hmar.plan(hmar.SamplingConfig(**settings), hmar.Scales(sides))
        wanted = [[each.scale, each.step, each.guidance, each.remasked, each.halves] for each in forwards]
        assert arithmetic("hmar-plan", json.dumps(settings), *sides) == wanted
