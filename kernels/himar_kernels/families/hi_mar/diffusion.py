"""Implements the reverse diffusion of both heads: chains, guidance, one step, known tokens (docs/model.md §5).

`Chain` is the paper's reverse step ("ddpm"); `solvers` has chains that add no noise. The functions take NumPy arrays or
torch tensors alike (they use operators only, so torch is never imported) and keep the arrays' float32. Chain index k
runs from n-1 down to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.shared.errors import InputError

BASE_STEPS = 1000
_MOST_BETA = 0.999

# np.ndarray or torch.Tensor; both halves of an operation are of the same kind.
Array = Any


@dataclass(frozen=True)
class NoiseLevels:
    """Where the n steps of a chain stand; tables (n,), float64 `alphas_cumprod`, the others float32.

    Attributes:
        timesteps: int64, index of each step in the base chain of 1000; what the heads embed.
        alphas_cumprod: ᾱ of the chain.
        sqrt_alphas_cumprod, sqrt_one_minus_alphas_cumprod: √ᾱ and √(1-ᾱ), for re-noising.
        x_scale, noise_scale: √(1/ᾱ) and √(1/ᾱ - 1); x̂0 = x_scale·x - noise_scale·ε.
    """

    timesteps: NDArray[np.int64]
    alphas_cumprod: NDArray[np.float64]
    sqrt_alphas_cumprod: NDArray[np.float32]
    sqrt_one_minus_alphas_cumprod: NDArray[np.float32]
    x_scale: NDArray[np.float32]
    noise_scale: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True)
class Chain(NoiseLevels):
    """The tables of an n-step chain, each (n,); float64 `betas` and `alphas_cumprod`, the others float32.

    Attributes:
        betas: β' of the chain.
        mean_start, mean_x: weights of x̂0 and x in the posterior mean.
        log_beta: ln β, the largest log-variance.
        log_posterior: ln β̃ with β̃_0 replaced by β̃_1, the smallest log-variance.
    """

    betas: NDArray[np.float64]
    mean_start: NDArray[np.float32]
    mean_x: NDArray[np.float32]
    log_beta: NDArray[np.float32]
    log_posterior: NDArray[np.float32]

    @property
    def first_step_gain(self) -> float:
        """How much the first reverse step (k = n-1) magnifies an error of the predicted noise: about 31,600 / n.

        126 at 250 steps, 316 at 100, 1,327 at 25: the last kept index has hardly any signal, and x̂0 is not clipped.
        """
        return float(self.mean_start[-1] * self.noise_scale[-1])

    @classmethod
    def build(cls, steps: int) -> Chain:
        """Compute the tables of a chain of `steps` kept steps, 2 … 1000 (else InputError)."""
        check_chain_length(steps)
        timesteps = np.rint(np.arange(steps) * (BASE_STEPS - 1) / (steps - 1)).astype(np.int64)
        kept = base_alphas_cumprod()[timesteps]
        betas = 1 - kept / np.concatenate([[1.0], kept[:-1]])
        alphas_cumprod = np.cumprod(1 - betas)
        previous = np.concatenate([[1.0], alphas_cumprod[:-1]])
        posterior = betas * (1 - previous) / (1 - alphas_cumprod)
        posterior[0] = posterior[1]
        tables = {
            **level_tables(alphas_cumprod),
            "mean_start": betas * np.sqrt(previous) / (1 - alphas_cumprod),
            "mean_x": (1 - previous) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
            "log_beta": np.log(betas),
            "log_posterior": np.log(posterior),
        }
        in_float32 = {name: table.astype(np.float32) for name, table in tables.items()}
        return cls(timesteps=timesteps, betas=betas, alphas_cumprod=alphas_cumprod, **in_float32)


def check_chain_length(steps: int) -> None:
    """Raise InputError unless a chain can have so many steps: 2 … 1000."""
    if not 2 <= steps <= BASE_STEPS:
        raise InputError(f"a chain of {steps} diffusion steps was asked for; it must be 2 to {BASE_STEPS}.")


def base_alphas_cumprod() -> NDArray[np.float64]:
    """Return ᾱ of the base chain, (1000,)."""
    u = np.arange(BASE_STEPS + 1) / BASE_STEPS
    alpha_bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], _MOST_BETA))


def level_tables(alphas_cumprod: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the tables of NoiseLevels that follow from ᾱ (n,), by name, in float64."""
    return {
        "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alphas_cumprod),
        "x_scale": np.sqrt(1 / alphas_cumprod),
        "noise_scale": np.sqrt(1 / alphas_cumprod - 1),
    }


def guided(prediction: Array, guidance: float) -> Array:
    """Join the halves of a prediction under classifier-free guidance: ε_u + g·(ε_c - ε_u).

    `prediction` (2B, …) holds the conditional rows first, then the unconditional ones; the result is (B, …).
    """
    images = prediction.shape[0] // 2
    conditional, unconditional = prediction[:images], prediction[images:]
    return unconditional + guidance * (conditional - unconditional)


def mlp_reverse_step(
    chain: Chain,
    k: int,
    x: Array,
    prediction: Array,
    guidance: float,
    noise: Array | None,
    temperature: float,
) -> Array:
    """One reverse step of the MLP head's chain, with the learned variance of the conditional half.

    Args:
        chain, k: the chain and the index in it, n-1 … 0.
        x: float32 (M, C), the state.
        prediction: float32 (2M, 2C) as [conditional; unconditional], or (M, 2C) when guidance is 1; the
            channels are the noise, then v.
        noise: float32 (M, C), standard normal; may be None at k = 0, where it has no effect.
        temperature: factor on the noise.

    Returns: the next state, (M, C).
    """
    samples, channels = x.shape
    epsilon = one_half(prediction[:, :channels], samples, guidance)
    fraction = (prediction[:samples, channels:] + 1) / 2
    log_variance = fraction * float(chain.log_beta[k]) + (1 - fraction) * float(chain.log_posterior[k])
    mean = _posterior_mean(chain, k, x, epsilon)
    if k == 0:
        return mean
    return mean + _exp(0.5 * log_variance) * _needed(noise, k) * temperature


def dit_reverse_step(
    chain: Chain,
    k: int,
    x: Array,
    prediction: Array,
    guidance: float,
    noise: Array | None,
    temperature: float,
) -> Array:
    """One reverse step of the DiT head's chain, with the fixed variance β.

    Shapes are x and noise (B, N, C) and prediction (2B, N, C), or (B, N, C) when guidance is 1; the rest is
    as in `mlp_reverse_step`. The log-variance at k = 0 has no effect, since no noise is added there.
    """
    mean = _posterior_mean(chain, k, x, one_half(prediction, x.shape[0], guidance))
    if k == 0:
        return mean
    deviation = float(_exp(np.float32(0.5) * chain.log_beta[k]))
    return mean + deviation * _needed(noise, k) * temperature


def renoise_known(
    chain: NoiseLevels,
    k: int,
    x: Array,
    tokens: Array,
    initial_noise: Array,
    known: Array,
) -> Array:
    """Set known positions to √ᾱ_k·token + √(1-ᾱ_k)·initial noise, before the DiT head's reverse step at k.

    Args:
        x, tokens, initial_noise: float32 (B, N, C).
        known: bool (B, N), True where the token is already fixed.
    """
    at_k = float(chain.sqrt_alphas_cumprod[k]) * tokens
    at_k = at_k + float(chain.sqrt_one_minus_alphas_cumprod[k]) * initial_noise
    return _where(known[..., None], at_k, x)


def one_half(prediction: Array, images: int, guidance: float) -> Array:
    """Return a prediction after guidance, (B, …), from both halves or the one that guidance 1 runs; else InputError."""
    if prediction.shape[0] == 2 * images:
        return guided(prediction, guidance)
    if prediction.shape[0] != images or guidance != 1:
        raise InputError(
            f"a head gave {prediction.shape[0]} rows for {images} under guidance {guidance}; "
            f"it needs {images if guidance == 1 else 2 * images}."
        )
    return prediction


def start_of(chain: NoiseLevels, k: int, x: Array, epsilon: Array) -> Array:
    """Return x̂0, what a noise prediction says the chain ends at; not clipped. Shapes are those of x."""
    return float(chain.x_scale[k]) * x - float(chain.noise_scale[k]) * epsilon


def _posterior_mean(chain: Chain, k: int, x: Array, epsilon: Array) -> Array:
    return float(chain.mean_start[k]) * start_of(chain, k, x, epsilon) + float(chain.mean_x[k]) * x


def _needed(noise: Array | None, k: int) -> Array:
    if noise is None:
        raise InputError(f"the reverse step at k = {k} needs noise; only k = 0 needs none.")
    return noise


def _exp(values: Array) -> Array:
    """In float64, rounded to float32: libraries' float32 exponentials differ in the last bit.

    Engines in half precision magnify that into visible differences between NumPy, C++ and devices.
    """
    if hasattr(values, "exp"):
        return values.double().exp().float()
    return np.exp(values.astype(np.float64)).astype(np.float32)


def _where(condition: Array, chosen: Array, other: Array) -> Array:
    return np.where(condition, chosen, other) if isinstance(other, np.ndarray) else chosen.where(condition, other)
