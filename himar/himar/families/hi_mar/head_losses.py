"""Computes training losses of the two diffusion heads on the full 1000-step chain (docs/model.md §5, §8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from himar_kernels.families.hi_mar import Chain

CHAIN_STEPS = 1000
# Pixel values are 1/127.5 apart in [-1, 1]; the likelihood at t = 0 integrates over one such bin.
_HALF_BIN = 1 / 255


@dataclass(frozen=True)
class Tables:
    """The full chain's coefficients as float32 tensors (1000,); names as in `himar_kernels.families.hi_mar.Chain`."""

    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    x_scale: Tensor
    noise_scale: Tensor
    mean_start: Tensor
    mean_x: Tensor
    log_beta: Tensor
    log_posterior: Tensor


@cache
def tables(device: torch.device) -> Tables:
    """Return the training chain's tables on a device."""
    chain = Chain.build(CHAIN_STEPS)
    return Tables(**{name: torch.from_numpy(getattr(chain, name)).to(device) for name in Tables.__annotations__})


def add_noise(target: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return x_t = √ᾱ_t·target + √(1-ᾱ_t)·noise: target and noise (M, …), t (M,) 0 … 999."""
    table = tables(target.device)
    kept = _per_row(table.sqrt_alphas_cumprod, t, target)
    return kept * target + _per_row(table.sqrt_one_minus_alphas_cumprod, t, target) * noise


def mlp_head_loss(prediction: Tensor, target: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mse, vb) per row of the MLP head; their sum is what it minimises.

    Args:
        prediction: (M, 2C), the head's output at `add_noise(target, noise, t)`: noise, then v.
        target: (M, C), the token without noise.
        noise: (M, C), standard normal.
        t: (M,) integers 0 … 999.

    Returns:
        mse (M,): mean squared error of the noise. vb (M,): the variational bound's term in bits per value;
        the noise prediction held constant so that it trains v alone.
    """
    predicted_noise, v = prediction.chunk(2, dim=-1)
    mse = (predicted_noise - noise).square().mean(dim=-1)
    return mse, _variational_term(predicted_noise.detach(), v, target, add_noise(target, noise, t), t)


def dit_head_loss(prediction: Tensor, noise: Tensor, masked: Tensor) -> Tensor:
    """Return the DiT head's loss per row: squared error where masked, averaged over all positions.

    Args: prediction and noise (B, N, C); masked (B, N) boolean. Returns (B,).
    """
    return ((prediction - noise).square() * masked[..., None]).mean(dim=(1, 2))


def _variational_term(noise: Tensor, v: Tensor, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
    table = tables(target.device)

    def at_t(values: Tensor) -> Tensor:
        return _per_row(values, t, target)

    fraction = (v + 1) / 2
    log_variance = fraction * at_t(table.log_beta) + (1 - fraction) * at_t(table.log_posterior)
    start = at_t(table.x_scale) * x - at_t(table.noise_scale) * noise
    mean = at_t(table.mean_start) * start + at_t(table.mean_x) * x
    true_mean = at_t(table.mean_start) * target + at_t(table.mean_x) * x
    divergence = _normal_divergence(true_mean, at_t(table.log_posterior), mean, log_variance)
    first = _bin_negative_log_likelihood(target, mean, 0.5 * log_variance)
    return torch.where(t[:, None] == 0, first, divergence).mean(dim=-1) / math.log(2)


def _normal_divergence(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL divergence in nats of a normal distribution from another, elementwise."""
    ratio = (log_variance - other_log_variance).exp()
    distance = (mean - other).square() * (-other_log_variance).exp()
    return 0.5 * (other_log_variance - log_variance + ratio + distance - 1)


def _bin_negative_log_likelihood(target: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """-ln of the probability a normal gives to the 8-bit bin around the target; the end bins are open."""
    centred = target - mean
    precision = (-log_deviation).exp()
    below_upper = _normal_cdf(precision * (centred + _HALF_BIN))
    below_lower = _normal_cdf(precision * (centred - _HALF_BIN))
    probability = torch.where(
        target < -0.999,
        below_upper,
        torch.where(target > 0.999, 1 - below_lower, below_upper - below_lower),
    )
    return -probability.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _per_row(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    return values[t].reshape(-1, *[1] * (like.ndim - 1))
