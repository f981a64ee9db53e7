"""Measures how far a head's chain would drift, were evaluations left out: from one run that has them all.

A forecast (himar_kernels.families.hi_mar.forecast) puts ε̂_k in the place of ε_k. What that does to an image is not the
size of the error but what the chain makes of it, and the chain does three things:

* the reverse step at k moves the next state by mean_start_k·noise_scale_k times the error, 126 times it at the top of
  250 steps (`Chain.first_step_gain`);
* the steps below forget most of it. Of a state's displacement at k-1 the share √ᾱ_{k-1} is left at the end, exactly so
  for tokens that are Gaussian with variance 1, which is how the VAE's are scaled: the top magnifies, and is forgotten;
* errors of neighbouring indices add up, or cancel where they alternate. A forecast does not follow the noise that each
  step adds, so most of its error is of that kind: the path's likelihood ratio, Σ (error/noise)² step by step, is the
  same for chains of 100 and 250 and says nothing of the damage. (It was tried.)

So the drift of a token's value is the sum Σ_k √ᾱ_{k-1}·mean_start_k·noise_scale_k·(ε̂_k - ε_k), to first order where
the chain ends. Its root mean square is divided by what the chain's own noise comes to in the same sum, temperature
times √(Σ ᾱ_{k-1}·β_k), nearly 1 at temperature 1: draws of another seed move an image by as much, and a drift far below
it is lost in them. A drift of a few tenths and more is noise that no step takes away.

First order: predictions are those of the run with every evaluation. Where some are left out the state differs, and so
do later predictions; only a run with the setting shows that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from himar_kernels import Draws, InputError
from himar_kernels.families.hi_mar import (
    Chain,
    Evaluations,
    Predictions,
    SamplingConfig,
    Step,
    guided,
    known_positions,
    step_chain,
)

from .mlp_head import MLPHead
from .model import HiMAR
from .sampler import TwoPhase, two_phase


@dataclass(frozen=True)
class Drift:
    """What leaving evaluations out of one autoregressive step's chain does.

    error: relative L2 of the noise at the indices that do not run in full; 0 where all do. drift: see the module's
    text; a share of the chain's own noise. evaluated, halves: how many indices and halves run.
    """

    error: float
    drift: float
    evaluated: int
    halves: int


class RecordedChain:
    """The predictions of one autoregressive step at every index of its chain, as the head gave them."""

    def __init__(self, step: Step, chain: Chain, channels: int, masked: Tensor | None = None) -> None:
        """masked: bool (rows, N), the positions whose result is used; None uses all that a prediction has."""
        self.step, self.chain, self.channels, self._masked = step, chain, channels, masked
        self._predictions: dict[int, Tensor] = {}
        self._exact: dict[int, Tensor] = {}

    def keep(self, k: int, prediction: Tensor) -> None:
        """Keep what the head gave at k: float32 (H·rows, …, ≥ C), [conditional; unconditional] under guidance."""
        self._predictions[k] = prediction
        noise = prediction[..., : self.channels]
        self._exact[k] = self._used(noise if self.step.halves == 1 else guided(noise, self.step.guidance))

    def drift(self, evaluations: Evaluations, temperature: float) -> Drift:
        """Return what these evaluations would do. temperature: of the run, above 0."""
        halves = evaluations.halves(len(self.chain), self.step.halves)
        predictions = Predictions(evaluations, self.step.guidance, self.channels)
        moved: Tensor | float = 0.0
        wrong, whole = 0.0, 0.0
        for k in range(len(self.chain) - 1, -1, -1):
            raw = self._predictions[k]
            rows = len(raw) // self.step.halves
            found, guidance = predictions.at(k, raw[: halves[k] * rows] if halves[k] else None, rows)
            if halves[k] == self.step.halves:
                continue
            assert guidance == 1  # something is left out, so the noise is settled
            error = self._used(found[..., : self.channels]) - self._exact[k]
            wrong, whole = wrong + _squares(error), whole + _squares(self._exact[k])
            moved = moved + error * self._weight(k)
        size = float(moved.square().mean().sqrt()) if isinstance(moved, Tensor) else 0.0
        relative = (wrong / whole) ** 0.5 if whole else 0.0
        return Drift(relative, size / (temperature * self._own_noise()), sum(map(bool, halves)), sum(halves))

    def gap_error(self, interval: int) -> float:
        """Return the relative L2 error of Δ = ε_c - ε_u where it is kept over `interval` indices; 0 unguided."""
        if self.step.halves == 1:
            return 0.0
        kept: Tensor | None = None
        wrong, whole = 0.0, 0.0
        for place, k in enumerate(range(len(self.chain) - 1, -1, -1)):
            conditional, unconditional = self._predictions[k][..., : self.channels].chunk(2)
            gap = self._used(conditional - unconditional)
            if kept is None or place % interval == 0:
                kept = gap
                continue
            wrong, whole = wrong + _squares(kept - gap), whole + _squares(gap)
        return (wrong / whole) ** 0.5 if whole else 0.0

    def _used(self, noise: Tensor) -> Tensor:
        return noise if self._masked is None else noise[self._masked]

    def _weight(self, k: int) -> float:
        """What an error of the noise at k comes to at the chain's end."""
        kept = self.chain.alphas_cumprod[k - 1] if k else 1.0
        return float(np.sqrt(kept) * self.chain.mean_start[k] * self.chain.noise_scale[k])

    def _own_noise(self) -> float:
        return float(np.sqrt((self.chain.alphas_cumprod[:-1] * self.chain.betas[1:]).sum()))


def recorded_run(
    model: HiMAR,
    labels: Sequence[int] | None,
    contexts: Tensor | None,
    draws: Draws,
    sampling: SamplingConfig,
    on_evaluation: Callable[[], None],
) -> tuple[TwoPhase, list[RecordedChain]]:
    """Run the eager model with every evaluation, and keep all predictions: float32 for every half, position and index.

    Chains of solvers, which add no noise, are not kept. Raises InputError where the settings leave evaluations out.
    """
    if any(sampling.evaluations(phase).leaves_out for phase in ("low", "high")):
        raise InputError(
            "the settings leave evaluations out already, but drift is measured on a run with every evaluation; take "
            "others, or set low_forecast, high_forecast and guidance_interval to 1."
        )
    images = np.arange(len(labels if labels is not None else contexts if contexts is not None else ()))
    chains: dict[Step, RecordedChain] = {}

    def evaluated(step: Step, k: int, prediction: Tensor) -> None:
        chain = step_chain(sampling, step)
        if isinstance(chain, Chain):
            if step not in chains:
                chains[step] = RecordedChain(step, chain, model.config.channels, _masked(model, step, draws, images))
            chains[step].keep(k, prediction)
        on_evaluation()

    result = two_phase(model, labels, contexts=contexts, draws=draws, sampling=sampling, evaluated=evaluated)
    return result, list(chains.values())


def _masked(model: HiMAR, step: Step, draws: Draws, images: np.ndarray) -> Tensor | None:
    """A DiT head predicts all positions, but those known are set anew at every index: the others count."""
    head = model.low_head if step.phase == "low" else model.high_head
    if isinstance(head, MLPHead):
        return None
    positions = model.config.low_positions if step.phase == "low" else model.config.high_positions
    order = draws.order(step.phase, positions, images)
    return torch.from_numpy(~known_positions(order, step.masked)).to(model.mask_token.device)


def _squares(values: Tensor) -> float:
    return float(values.double().square().sum())
