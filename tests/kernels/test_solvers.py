"""The solvers without noise: a wrong weight gives images that look right and are not the model's."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import InputError
from himar_kernels.families.hi_mar import Chain, SamplingConfig, SolverChain, build_chain, renoise_known, solver_step
from himar_kernels.families.hi_mar.sampling import in_phases
from himar_kernels.families.hi_mar.solvers import FIRST_LEVEL, LAST_LEVEL
from tests.closeness import COMPONENT, assert_each_near, assert_near

RANDOM = np.random.default_rng(11)
SPREAD = 0.6  # standard deviation of the Gaussian tokens whose noise prediction is known


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def gaussian_error(chain: SolverChain) -> float:
    """Relative error of a chain whose head is exact for tokens N(0, SPREAD²), against the exact flow to its last level.

    The flow keeps x / √(α²·SPREAD² + σ²), so the state at every level is known.
    """
    total = chain.alphas_cumprod
    width = np.sqrt(total * SPREAD**2 + 1 - total)
    first = np.linspace(-2, 2, 16, dtype=np.float32).reshape(4, 4)
    x, start = (first * width[-1]).astype(np.float32), None
    for k in range(len(chain) - 1, -1, -1):
        epsilon = np.sqrt(1 - total[k]) * x / width[k] ** 2
        x, start = solver_step(chain, k, x, epsilon.astype(np.float32), 1.0, start)
    exact = first * np.sqrt(total[0]) * SPREAD**2 / width[0]  # x̂0 at the last level
    return float(np.linalg.norm(x - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm++", 2)])
def test_the_error_falls_with_the_solver_s_order_as_steps_double(solver: str, order: int) -> None:
    errors = []
    for steps in (16, 32, 64):  # where base steps are even: at the ends of a whole chain λ runs away from them
        between = np.linspace(900, 100, steps + 1).round().astype(int)[::-1]
        errors.append(gaussian_error(SolverChain.through(between, second_order=solver == "dpm++")))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(slopes - order) < 0.25), (errors, slopes)
    assert errors[-1] < (0.02 if order == 1 else 5e-4)
    assert gaussian_error(build_chain(solver, 100)) < (0.03 if order == 1 else 2e-3)


def test_a_ddim_step_is_the_formula_in_float64() -> None:
    chain = SolverChain.build("ddim", 12)
    x, prediction = normal(7, 4), normal(14, 8)
    before = np.append(1.0, chain.alphas_cumprod[:-1])
    for k in (11, 5, 0):
        found, start = solver_step(chain, k, x, prediction, 2.5, normal(7, 4))
        epsilon = prediction[7:, :4] + 2.5 * (prediction[:7, :4].astype(float) - prediction[7:, :4])
        total = chain.alphas_cumprod[k]
        token = (x - np.sqrt(1 - total) * epsilon) / np.sqrt(total)
        expected = np.sqrt(before[k]) * token + np.sqrt(1 - before[k]) * epsilon
        assert found.dtype == start.dtype == np.float32
        assert_near(start, token, COMPONENT)
        assert_near(found, expected, 2 * COMPONENT)


def test_a_multistep_is_dpm_solver_s_update_in_float64() -> None:
    """Algorithm 2 of arXiv 2211.01095 in its own words: x' = σ'/σ·x - α'·(e^-h - 1)·D."""
    chain = SolverChain.build("dpm++", 9)
    alpha, sigma = np.sqrt(chain.alphas_cumprod), np.sqrt(1 - chain.alphas_cumprod)
    level = np.log(alpha / sigma)
    x, prediction, previous = normal(3, 5, 4), normal(6, 5, 4), normal(3, 5, 4)
    for k in (7, 4, 1):
        found, start = solver_step(chain, k, x, prediction, 1.7, previous)
        h, r = level[k - 1] - level[k], (level[k] - level[k + 1]) / (level[k - 1] - level[k])
        mixed = (1 + 1 / (2 * r)) * start.astype(float) - previous / (2 * r)
        expected = sigma[k - 1] / sigma[k] * x - alpha[k - 1] * np.expm1(-h) * mixed
        assert_near(found, expected, COMPONENT)
    with pytest.raises(InputError, match="k = 4 needs the start that the step before predicted"):
        solver_step(chain, 4, x, prediction, 1.7, None)


def test_a_constant_start_makes_both_solvers_one() -> None:
    ddim, multistep = (SolverChain.build(solver, 10) for solver in ("ddim", "dpm++"))
    token = normal(2, 6, 4)
    x = other = normal(2, 6, 4)
    start = None
    for k in range(9, -1, -1):
        level = np.sqrt(ddim.alphas_cumprod[k]), np.sqrt(1 - ddim.alphas_cumprod[k])
        x, _ = solver_step(ddim, k, x, ((x - level[0] * token) / level[1]).astype(np.float32), 1.0, None)
        epsilon = ((other - level[0] * token) / level[1]).astype(np.float32)
        other, start = solver_step(multistep, k, other, epsilon, 1.0, start)
        assert_each_near(x, other, 1e-4)
    assert_each_near(x, token, 1e-4)


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
@pytest.mark.parametrize("steps", [2, 3, 8, 100, 998, 1000])
def test_chains_of_every_length_stand_on_steps_of_their_own(solver: str, steps: int) -> None:
    chain = build_chain(solver, steps)
    assert len(chain) == steps
    assert np.all(np.diff(chain.timesteps) > 0)
    level = np.log(chain.sqrt_alphas_cumprod / chain.sqrt_one_minus_alphas_cumprod)
    if steps <= 100:
        assert level[[0, -1]] == pytest.approx((LAST_LEVEL, FIRST_LEVEL), abs=0.03)
    for table in (chain.x_weight, chain.start_weight, chain.previous_weight):
        assert table.dtype == np.float32 and np.all(np.isfinite(table))
    assert (chain.x_weight[0], chain.start_weight[0], chain.previous_weight[0]) == (0, 1, 0)
    assert chain.previous_weight[-1] == 0


def test_short_chains_are_even_in_the_level_and_magnify_an_error_of_the_head_little() -> None:
    chain = build_chain("ddim", 8)
    width = np.diff(np.log(chain.sqrt_one_minus_alphas_cumprod / chain.sqrt_alphas_cumprod))
    assert np.all(np.abs(width - (LAST_LEVEL - FIRST_LEVEL) / 7) < 0.02)
    for steps in (4, 8, 16):
        assert build_chain("dpm++", steps).first_step_gain < 0.002 * Chain.build(steps).first_step_gain


def test_known_tokens_follow_a_solver_s_chain_too() -> None:
    chain = SolverChain.build("ddim", 6)
    x, tokens, noise = normal(1, 4, 2), normal(1, 4, 2), normal(1, 4, 2)
    known = np.array([[True, False, True, False]])
    found = renoise_known(chain, 3, x, tokens, noise, known)
    total = chain.alphas_cumprod[3]
    assert_each_near(found[known], np.sqrt(total) * tokens[known] + np.sqrt(1 - total) * noise[known], 1e-6)
    assert np.array_equal(found[~known], x[~known])


def test_torch_tensors_take_the_same_path() -> None:
    torch = pytest.importorskip("torch")
    chain = SolverChain.build("dpm++", 7)
    x, prediction, previous = normal(3, 5, 4), normal(6, 5, 4), normal(3, 5, 4)
    t = torch.from_numpy
    found = solver_step(chain, 3, t(x), t(prediction), 1.7, t(previous))
    expected = solver_step(chain, 3, x, prediction, 1.7, previous)
    for tensor, array in zip(found, expected, strict=True):
        assert tensor.dtype == torch.float32
        assert_each_near(tensor, array, 1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low_solver": "euler"}, r"low_solver is 'euler'; it must be 'ddpm', 'ddim' or 'dpm\+\+'"),
        ({"high_solver": ["ddim"]}, r"high_solver is \['ddim'\]"),
        (
            {"low_solver": "ddim", "high_solver": "dpm++", "temperature": 0.9},
            r"temperature is 0\.9, .* set it to 1",
        ),
    ],
)
def test_settings_that_a_solver_cannot_follow_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingConfig(**values)


def test_a_temperature_needs_a_phase_that_adds_noise() -> None:
    mixed = SamplingConfig(low_solver="ddpm", high_solver="ddim", temperature=0.9)
    mixed.check_positions(64, 256)
    with pytest.raises(InputError, match=r"temperature is 0\.9, but .* solver 'ddim' adds none"):
        mixed.check_positions(0, 256)  # a single scale has no phase low


def test_the_default_is_written_as_before_there_were_solvers() -> None:
    assert not {"low_solver", "high_solver"} & SamplingConfig().to_dict().keys()
    other = SamplingConfig(high_solver="dpm++")
    assert other.to_dict()["high_solver"] == "dpm++" and "low_solver" not in other.to_dict()
    assert SamplingConfig.from_dict(other.to_dict()) == other
    assert (SamplingConfig().needs_solvers, other.needs_solvers) == (False, True)


def test_changes_of_phases_are_settings_of_each() -> None:
    changes = in_phases("low", "high", solver="dpm++", diffusion_steps=4)
    assert SamplingConfig(**changes) == SamplingConfig(
        low_solver="dpm++", high_solver="dpm++", low_diffusion_steps=4, high_diffusion_steps=4
    )
    assert in_phases("low", solver="ddim") == {"low_solver": "ddim"}


def test_a_chain_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="solver is 'ddpm'; it must be 'ddim'"):
        SolverChain.build("ddpm", 10)
    with pytest.raises(InputError, match="a chain of 1 diffusion steps was asked"):
        build_chain("ddim", 1)
