"""The reverse step runs in every engine's loop: an error here moves every image away from the model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from closeness import COMPONENT, assert_each_near, assert_near

from himar_kernels import Chain, InputError, dit_reverse_step, guided, mlp_reverse_step, renoise_known

GOLDEN = Path(__file__).parents[1] / "golden"
RANDOM = np.random.default_rng(5)


def _normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ["himar-narrow-128", "himar-narrow-256"])
@pytest.mark.parametrize("head", ["mlp", "dit"])
def test_chains_are_exactly_the_recorded_ones(name: str, head: str) -> None:
    arrays = np.load(GOLDEN / f"{name}.npz")
    timesteps = arrays[f"schedule/{head}/timesteps"]
    chain = Chain.build(len(timesteps))
    assert len(chain) == len(timesteps)
    assert np.array_equal(chain.timesteps, timesteps)
    assert np.array_equal(chain.betas, arrays[f"schedule/{head}/betas"])
    assert np.array_equal(chain.alphas_cumprod, arrays[f"schedule/{head}/alphas_cumprod"])


@pytest.mark.parametrize("steps", [2, 100, 250, 1000])
def test_chains_run_from_the_first_to_the_last_base_step(steps: int) -> None:
    chain = Chain.build(steps)
    assert chain.timesteps[0] == 0
    assert chain.timesteps[-1] == 999
    assert np.all(np.diff(chain.timesteps) > 0)
    assert np.all(np.isfinite(chain.log_beta))
    assert np.all(np.isfinite(chain.log_posterior))
    assert chain.log_posterior[0] == chain.log_posterior[1]
    assert chain.mean_x[0] == 0


@pytest.mark.parametrize("steps", [0, 1, 1001])
def test_a_chain_length_out_of_range_is_refused(steps: int) -> None:
    with pytest.raises(InputError, match=rf"{steps} diffusion steps .* 2 to 1000"):
        Chain.build(steps)


@pytest.mark.parametrize("k", [49, 20, 1, 0])
def test_mlp_step_is_the_formula_in_float64(k: int) -> None:
    chain = Chain.build(50)
    x, noise, prediction = _normal(7, 4), _normal(7, 4), _normal(14, 8)
    result = mlp_reverse_step(chain, k, x, prediction, 2.5, noise, 0.9)

    epsilon_c, epsilon_u = prediction[:7, :4].astype(float), prediction[7:, :4].astype(float)
    epsilon = epsilon_u + 2.5 * (epsilon_c - epsilon_u)
    fraction = (prediction[:7, 4:].astype(float) + 1) / 2
    beta, total = chain.betas, chain.alphas_cumprod
    before = np.append(1.0, total[:-1])
    posterior = beta * (1 - before) / (1 - total)
    posterior[0] = posterior[1]
    start = np.sqrt(1 / total[k]) * x - np.sqrt(1 / total[k] - 1) * epsilon
    mean = beta[k] * np.sqrt(before[k]) / (1 - total[k]) * start
    mean = mean + (1 - before[k]) * np.sqrt(1 - beta[k]) / (1 - total[k]) * x
    variance = np.exp(fraction * np.log(beta[k]) + (1 - fraction) * np.log(posterior[k]))
    expected = mean + (k > 0) * np.sqrt(variance) * noise * 0.9
    assert result.dtype == np.float32
    assert_near(result, expected, COMPONENT)


def test_a_perfect_head_without_noise_ends_at_the_image() -> None:
    """With ε known exactly, every chain must arrive at x0, whatever its length."""
    token = _normal(2, 6, 4)
    for steps in (2, 25, 250):
        chain = Chain.build(steps)
        x = _normal(2, 6, 4)
        for k in range(steps - 1, -1, -1):
            epsilon = (x - np.sqrt(chain.alphas_cumprod[k]) * token) / np.sqrt(1 - chain.alphas_cumprod[k])
            x = dit_reverse_step(chain, k, x, epsilon.astype(np.float32), 1.0, None if k == 0 else 0 * x, 1.0)
        assert_each_near(x, token, 1e-4)


def test_dit_noise_has_the_fixed_variance_and_the_temperature() -> None:
    chain = Chain.build(250)
    x, noise, prediction = _normal(2, 3, 4), _normal(2, 3, 4), _normal(2, 3, 4)
    quiet = dit_reverse_step(chain, 40, x, prediction, 1.0, noise, 0.0)
    loud = dit_reverse_step(chain, 40, x, prediction, 1.0, noise, 0.5)
    assert_each_near(loud, quiet + 0.5 * np.sqrt(chain.betas[40]) * noise, 1e-6)


def test_no_noise_is_added_at_the_last_step() -> None:
    chain = Chain.build(10)
    x, prediction = _normal(3, 4), _normal(3, 8)
    without = mlp_reverse_step(chain, 0, x, prediction, 1.0, None, 1.0)
    assert np.array_equal(without, mlp_reverse_step(chain, 0, x, prediction, 1.0, _normal(3, 4), 1.0))
    with pytest.raises(InputError, match="k = 1 needs noise"):
        mlp_reverse_step(chain, 1, x, prediction, 1.0, None, 1.0)


def test_guidance_of_one_with_both_halves_is_the_conditional_half() -> None:
    prediction = _normal(8, 3)
    assert_each_near(guided(prediction, 1.0), prediction[:4], 1e-6)
    assert_each_near(guided(prediction, 0.0), prediction[4:], 1e-6)


@pytest.mark.parametrize(("rows", "guidance"), [(3, 2.5), (2, 1.0), (12, 1.0)])
def test_a_wrong_number_of_rows_is_refused(rows: int, guidance: float) -> None:
    x = _normal(3, 5, 4)
    with pytest.raises(InputError, match=f"a head gave {rows} rows for 3 under guidance {guidance}"):
        dit_reverse_step(Chain.build(10), 3, x, _normal(rows, 5, 4), guidance, x, 1.0)


def test_known_tokens_are_renoised_and_the_others_left() -> None:
    chain = Chain.build(20)
    x, tokens, noise = _normal(2, 5, 3), _normal(2, 5, 3), _normal(2, 5, 3)
    known = np.array([[True, False, False, True, False], [False] * 5])
    result = renoise_known(chain, 7, x, tokens, noise, known)
    total = chain.alphas_cumprod[7]
    assert result.dtype == np.float32
    assert np.array_equal(result[~known], x[~known])
    assert_each_near(result[known], np.sqrt(total) * tokens[known] + np.sqrt(1 - total) * noise[known], 1e-6)


def test_torch_tensors_take_the_same_path() -> None:
    torch = pytest.importorskip("torch")
    chain = Chain.build(30)
    x, tokens, noise, known = (
        _normal(2, 5, 4),
        _normal(2, 5, 4),
        _normal(2, 5, 4),
        RANDOM.random((2, 5)) < 0.5,
    )
    prediction = _normal(4, 5, 4)
    t = torch.from_numpy
    renoised = renoise_known(chain, 9, t(x), t(tokens), t(noise), t(known))
    result = dit_reverse_step(chain, 9, renoised, t(prediction), 1.7, t(noise), 0.9)
    expected = renoise_known(chain, 9, x, tokens, noise, known)
    expected = dit_reverse_step(chain, 9, expected, prediction, 1.7, noise, 0.9)
    assert result.dtype == torch.float32
    assert_each_near(result, expected, 1e-6)
    head = _normal(4, 8)
    result = mlp_reverse_step(chain, 9, t(x[0, :4]), t(head), 1.0, t(noise[0, :4]), 0.9)
    expected = mlp_reverse_step(chain, 9, x[0, :4], head, 1.0, noise[0, :4], 0.9)
    assert result.dtype == torch.float32
    assert_each_near(result, expected, 1e-6)
