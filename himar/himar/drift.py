"""Defines what measuring the drift of forecasts asks of a model family, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from himar_kernels.families.registry import family_part


@dataclass(frozen=True)
class Candidate:
    """One way of leaving evaluations of a phase's head out, and what it does.

    Attributes:
        interval, order, first, last: of the forecast; guidance_interval: of the condition cache.
        error: relative L2 error of the noise at the indices left out; of a condition cache alone, that of the halves'
            difference. The largest of the phase's autoregressive steps.
        drift: what the errors come to at a chain's end, as a share of the chain's own noise; the largest of `steps`.
        steps: the drift in each autoregressive step.
        work: share of the halves that run.
    """

    interval: int
    order: int
    first: int
    last: int
    guidance_interval: int
    error: float
    drift: float
    steps: tuple[float, ...]
    work: float


@dataclass(frozen=True)
class PhaseDrift:
    """A phase's candidates, and the one proposed.

    Attributes:
        name: of the phase.
        chain: its chains in words.
        forecasts: candidates that forecast and have no condition cache.
        caches: a condition cache, alone and over the proposed forecast; empty without guidance.
        proposed: the candidate of the proposal, or None with the reason in `words`.
        words: one sentence.
    """

    name: str
    chain: str
    forecasts: tuple[Candidate, ...]
    caches: tuple[Candidate, ...]
    proposed: Candidate | None
    words: str


@dataclass(frozen=True)
class DriftReport:
    """Of one run with every evaluation, and one with the proposal.

    Attributes:
        images: of the run.
        limit: the largest drift that is proposed.
        phases: those of the model.
        changes: the proposal as settings, those that differ from the default; empty where nothing is proposed.
        work: share of the heads' work that is left with the proposal.
        latent_difference: relative L2 of the latents with the proposal from those without, the draws the same; None
            where nothing is proposed.
    """

    images: int
    limit: float
    phases: tuple[PhaseDrift, ...]
    changes: dict[str, Any]
    work: float
    latent_difference: float | None


class DriftFamily(Protocol):
    """A model family whose heads go down chains that can leave evaluations out."""

    def measure(
        self,
        model: Any,
        labels: Sequence[int] | None,
        contexts: Tensor | None,
        *,
        seed: int,
        sampling: Any,
        limit: float | None = None,
        on_evaluation: Callable[[int, int], None] | None = None,
    ) -> DriftReport:
        """Run the eager model with every evaluation, measure candidates on it, and run the proposal.

        labels, contexts: one of both, as for ModelFamily.images. limit: the largest drift to propose; the family's own
        if None. on_evaluation: called with the evaluations done and those of the first run. Raises InputError for
        settings that leave evaluations out or whose chains add no noise.
        """
        ...


def drift_family(name: str) -> DriftFamily:
    """Return how drift is measured in a family; InputError for one whose heads have no chains."""
    family: DriftFamily = family_part(name, "drift")
    return family
