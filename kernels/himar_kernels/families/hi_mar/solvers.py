"""Implements noise-free solvers of the heads' diffusion: DDIM and DPM-Solver++(2M). Optional; the default is `Chain`.

Both follow the probability-flow equation from noise to the token. With x̂0 as the step predicts it and x̂0⁺ as the
step before it did, one step is linear in what is known:

    x' = a·x + b·x̂0 + c·x̂0⁺

Between the levels of two kept steps, (√ᾱ, √(1-ᾱ)) = (α, σ) and the next (α', σ'), a = σ'/σ and b + c = α' - a·α.

* "ddim" (arXiv 2010.02502, equation 12 with η = 0): c = 0.
* "dpm++" (arXiv 2211.01095, algorithm 2, multistep of order 2): x̂0 is extrapolated from the last two. With
  h = λ' - λ, λ = ln(α/σ), and h⁺ that of the step before, c = -(α' - a·α)·h/(2h⁺). The first step is DDIM's.

The last step, at k = 0, lands on x̂0: a = c = 0, b = 1. An MLP head's learned variance is not used.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.draws import Phase
from himar_kernels.shared.errors import InputError

from .diffusion import (
    Array,
    Chain,
    NoiseLevels,
    base_alphas_cumprod,
    check_chain_length,
    dit_reverse_step,
    level_tables,
    mlp_reverse_step,
    one_half,
    start_of,
)
from .sampling import SamplingConfig, Solver
from .schedule import Step

# λ, half the log signal-to-noise ratio, where chains begin and where their last step stands. The released spacing
# begins at -10.4, where x̂0 magnifies an error of the noise prediction 31,600 times. DPM-Solver++'s authors begin at
# -5.1 and end at the first base step, λ = 5.1: on the digits those ends take steps that the middle needs
# (docs/solvers.md).
FIRST_LEVEL, LAST_LEVEL = -3.0, 3.0


@dataclass(frozen=True)
class SolverChain(NoiseLevels):
    """The tables of an n-step chain without noise, each (n,), computed in float64 and kept in float32.

    x_weight, start_weight, previous_weight: a, b and c of the step at k; see the module's text.
    """

    x_weight: NDArray[np.float32]
    start_weight: NDArray[np.float32]
    previous_weight: NDArray[np.float32]

    @property
    def first_step_gain(self) -> float:
        """How much the first step (k = n-1) magnifies an error of the predicted noise; see Chain.first_step_gain."""
        return float(self.start_weight[-1] * self.noise_scale[-1])

    @classmethod
    def build(cls, solver: Solver, steps: int) -> SolverChain:
        """Compute the tables of a chain of `steps` steps, 2 … 1000, of "ddim" or "dpm++" (else InputError)."""
        if solver not in ("ddim", "dpm++"):
            raise InputError(f"solver is {solver!r}; it must be 'ddim' or 'dpm++'.")
        check_chain_length(steps)
        return cls.through(spaced_timesteps(steps), second_order=solver == "dpm++")

    @classmethod
    def through(cls, timesteps: NDArray[np.int64], second_order: bool) -> SolverChain:
        """Compute the tables of a chain through these base steps, ascending: DDIM, or 2M when `second_order`."""
        alphas_cumprod = base_alphas_cumprod()[timesteps]
        alpha, sigma = np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod)
        level = np.log(alpha / sigma)
        x_weight = np.append(0.0, sigma[:-1] / sigma[1:])
        start_weight = np.append(1.0, alpha[:-1] - x_weight[1:] * alpha[1:])
        previous_weight = np.zeros_like(start_weight)
        if second_order:
            width = level[:-1] - level[1:]  # h of the steps at k = 1 … n-1
            previous_weight[1:-1] = -start_weight[1:-1] * width[:-1] / (2 * width[1:])
        tables = {
            **level_tables(alphas_cumprod),
            "x_weight": x_weight,
            "start_weight": start_weight - previous_weight,
            "previous_weight": previous_weight,
        }
        in_float32 = {name: table.astype(np.float32) for name, table in tables.items()}
        return cls(timesteps=timesteps, alphas_cumprod=alphas_cumprod, **in_float32)


AnyChain = Chain | SolverChain


@functools.lru_cache(maxsize=64)
def build_chain(solver: Solver, steps: int) -> AnyChain:
    """Return the n-step chain of a solver's name; "ddpm" is the paper's reverse step. Raises InputError."""
    return Chain.build(steps) if solver == "ddpm" else SolverChain.build(solver, steps)


def step_chain(sampling: SamplingConfig, step: Step) -> AnyChain:
    """Return the chain that the head goes down in an autoregressive step."""
    return build_chain(sampling.solver(step.phase), step.diffusion_steps)


def phase_chains(sampling: SamplingConfig) -> dict[Phase, tuple[AnyChain, ...]]:
    """Return the chains that each phase's head goes down, one for each autoregressive step."""
    phases: tuple[Phase, ...] = ("low", "high")
    return {
        phase: tuple(build_chain(sampling.solver(phase), count) for count in sampling.diffusion_counts(phase))
        for phase in phases
    }


def spaced_timesteps(steps: int) -> NDArray[np.int64]:
    """Return the base steps of a solver's chain, int64 (n,), ascending: even in λ, LAST_LEVEL to FIRST_LEVEL."""
    alphas_cumprod = base_alphas_cumprod()
    level = np.log(alphas_cumprod / (1 - alphas_cumprod)) / 2
    wanted = np.linspace(LAST_LEVEL, FIRST_LEVEL, steps)
    timesteps = np.rint(np.interp(-wanted, -level, np.arange(len(level)))).astype(np.int64)
    # Long chains ask for more steps at either end than there are: each then takes the next one that is free, and the
    # longest all that there are.
    count = np.arange(steps)
    last = max(int(timesteps[-1]), steps - 1)
    return np.minimum(np.maximum.accumulate(timesteps - count), last - (steps - 1)) + count


def mlp_head_step(
    chain: AnyChain,
    k: int,
    x: Array,
    prediction: Array,
    guidance: float,
    noise: Array | None,
    temperature: float,
    previous: Array | None,
) -> tuple[Array, Array | None]:
    """One step of an MLP head's chain, whichever its solver: `mlp_reverse_step`, or `solver_step` without noise.

    Returns: the next state, and x̂0 where the next step asks for it as `previous`.
    """
    if isinstance(chain, SolverChain):
        return solver_step(chain, k, x, prediction, guidance, previous)
    return mlp_reverse_step(chain, k, x, prediction, guidance, noise, temperature), None


def dit_head_step(
    chain: AnyChain,
    k: int,
    x: Array,
    prediction: Array,
    guidance: float,
    noise: Array | None,
    temperature: float,
    previous: Array | None,
) -> tuple[Array, Array | None]:
    """One step of a DiT head's chain, whichever its solver: see `mlp_head_step`, with `dit_reverse_step`."""
    if isinstance(chain, SolverChain):
        return solver_step(chain, k, x, prediction, guidance, previous)
    return dit_reverse_step(chain, k, x, prediction, guidance, noise, temperature), None


def solver_step(
    chain: SolverChain, k: int, x: Array, prediction: Array, guidance: float, previous: Array | None
) -> tuple[Array, Array]:
    """One step of a solver's chain, of either head.

    Args:
        chain, k: the chain and the index in it, n-1 … 0.
        x: float32 (B, …, C), the state.
        prediction: float32 (2B, …, ≥ C) as [conditional; unconditional], or (B, …, ≥ C) when guidance is 1; its first
            C channels are the noise.
        previous: x̂0 of the step before, shape of x; None at the first step.

    Returns: the next state and x̂0, each (B, …, C).
    """
    epsilon = one_half(prediction[..., : x.shape[-1]], x.shape[0], guidance)
    start = start_of(chain, k, x, epsilon)
    following = float(chain.start_weight[k]) * start + float(chain.x_weight[k]) * x
    weight = float(chain.previous_weight[k])
    if weight != 0:
        if previous is None:
            raise InputError(f"the step at k = {k} needs the start that the step before predicted; only DDIM does not.")
        following = following + weight * previous
    return following, start
