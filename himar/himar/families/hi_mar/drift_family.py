"""Proposes which evaluations of Hi-MAR's heads to leave out, from the drift that candidates show on one run.

All phases share a forecast's order, first and last indices and the condition cache, so these are chosen together: for
each order and count of first indices every phase takes the widest interval whose drift is within `LIMIT` in all of its
autoregressive steps; of these the one that leaves the least work is proposed, and then the widest condition cache that
keeps within it.

`LIMIT` was calibrated on the digits at the released chain lengths (100 in phase low, 250 in phase high), against
distance, precision, recall and recognition: docs/forecast.md has the settings and their drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from himar.drift import Candidate, DriftReport, PhaseDrift
from himar_kernels import InputError, PhiloxDraws
from himar_kernels.families.hi_mar import Evaluations, Phase, SamplingConfig, Step, plan
from himar_kernels.families.hi_mar.forecast import MOST_ORDER, WIDEST_SECOND_ORDER

from .drift import RecordedChain, recorded_run
from .mlp_head import MLPHead
from .model import HiMAR
from .sampler import two_phase

LIMIT = 0.26
"""Largest drift that is proposed, as a share of a chain's own noise: of the settings that were measured, N 8 with 5
first indices (0.253) keeps the default's quality, and N 12 (0.44) does not."""

INTERVALS = (2, 3, 4, 6, 8, 12, 16)
FIRST = (5, 8, 12)
GUIDANCE_INTERVALS = (2, 3)

Chains = Mapping[Phase, Sequence[RecordedChain]]


class HiMarDrift:
    """See `himar.drift.DriftFamily`."""

    def measure(
        self,
        model: HiMAR,
        labels: Sequence[int] | None,
        contexts: Tensor | None,
        *,
        seed: int,
        sampling: SamplingConfig,
        limit: float | None = None,
        on_evaluation: Callable[[int, int], None] | None = None,
    ) -> DriftReport:
        """See DriftFamily.measure."""
        config, draws = model.config, PhiloxDraws(seed)
        limit = LIMIT if limit is None else limit
        steps = plan(sampling, config.low_positions, config.high_positions)
        phases: list[Phase] = list(dict.fromkeys(step.phase for step in steps))
        _require_noise(sampling, phases)
        total, done = sum(step.diffusion_steps for step in steps), 0

        def count() -> None:
            nonlocal done
            done += 1
            if on_evaluation is not None:
                on_evaluation(done, total)

        full, recorded = recorded_run(model, labels, contexts, draws, sampling, count)
        chains: Chains = {phase: [each for each in recorded if each.step.phase == phase] for phase in phases}
        forecasts = {phase: tuple(forecast_candidates(chains[phase], sampling.temperature)) for phase in phases}
        weights = {phase: sum(_work(model, step) for step in steps if step.phase == phase) for phase in phases}
        chosen = propose(forecasts, weights, limit)
        caches = {phase: _caches(chains[phase], chosen[phase], sampling.temperature) for phase in phases}
        if all(chains[step.phase] for step in steps if step.halves == 2):  # else one would be taken unmeasured
            chosen = widest_cache(chosen, caches, limit)
        shares = {phase: 1.0 if each is None else each.work for phase, each in chosen.items()}
        changes = changes_of(chosen)
        found = tuple(
            PhaseDrift(
                phase,
                _chain(sampling, phase),
                forecasts[phase],
                tuple(caches[phase]),
                chosen[phase],
                _words(sampling, phase, forecasts[phase], chosen[phase], limit),
            )
            for phase in phases
        )
        difference = None
        if changes:
            again = two_phase(model, labels, contexts=contexts, draws=draws, sampling=sampling.with_changes(**changes))
            difference = float(torch.dist(again.tokens, full.tokens) / full.tokens.norm())
        work = sum(weights[phase] * shares[phase] for phase in phases) / sum(weights.values())
        return DriftReport(len(full.tokens), limit, found, changes, work, difference)


FAMILY = HiMarDrift()


def forecast_candidates(chains: Sequence[RecordedChain], temperature: float) -> Iterator[Candidate]:
    """Yield what forecasts of a phase's chains do, those that leave anything out: every order, N and W, E the default.

    Order 2 is measured beyond the interval from which it is refused, too: the table shows why.
    """
    for order in range(MOST_ORDER + 1):
        for first in FIRST:
            for interval in INTERVALS:
                each = candidate(chains, Evaluations(interval, order, first), temperature)
                if each is not None and each.work < 1:
                    yield each


def candidate(chains: Sequence[RecordedChain], evaluations: Evaluations, temperature: float) -> Candidate | None:
    """Return what these evaluations do to a phase's chains; None where it has none."""
    drifts = [chain.drift(evaluations, temperature) for chain in chains]
    if not drifts:
        return None
    return Candidate(
        evaluations.interval,
        evaluations.order,
        evaluations.first,
        evaluations.last,
        evaluations.guidance_interval,
        max(each.error for each in drifts),
        max(each.drift for each in drifts),
        tuple(each.drift for each in drifts),
        sum(each.halves for each in drifts) / sum(len(chain.chain) * chain.step.halves for chain in chains),
    )


def propose(
    forecasts: Mapping[Phase, Sequence[Candidate]], weights: Mapping[Phase, float], limit: float = LIMIT
) -> dict[Phase, Candidate | None]:
    """Return each phase's forecast, None for all evaluations; of one order and one count of first indices.

    weights: the work of each phase's head with every evaluation. Of equal work, the smaller drift wins.
    """
    best: dict[Phase, Candidate | None] = dict.fromkeys(forecasts)
    least = (sum(weights.values()), 0.0)
    for order, first in sorted({(each.order, each.first) for phase in forecasts.values() for each in phase}):
        widest = {
            phase: max(
                (each for each in every if (each.order, each.first) == (order, first) and _allowed(each, limit)),
                key=lambda each: each.interval,
                default=None,
            )
            for phase, every in forecasts.items()
        }
        work = sum(
            weight * (1.0 if (each := widest[phase]) is None else each.work) for phase, weight in weights.items()
        )
        drift = max((each.drift for each in widest.values() if each is not None), default=0.0)
        if (work, drift) < least:
            best, least = widest, (work, drift)
    return best


def widest_cache(
    chosen: Mapping[Phase, Candidate | None], caches: Mapping[Phase, Sequence[Candidate]], limit: float = LIMIT
) -> dict[Phase, Candidate | None]:
    """Return the forecasts with the widest condition cache that every phase bears; as they are where none does.

    caches: of each phase, candidates alone and over its forecast; empty without guidance.
    """
    for interval in reversed(GUIDANCE_INTERVALS):
        found = {}
        for phase, each in chosen.items():
            wanted = (1 if each is None else each.interval, interval)
            found[phase] = next(
                (cache for cache in caches[phase] if (cache.interval, cache.guidance_interval) == wanted), None
            )
        asked = [found[phase] for phase in chosen if caches[phase]]
        if asked and all(each is not None and _allowed(each, limit) for each in asked):
            return {phase: found[phase] or each for phase, each in chosen.items()}
    return dict(chosen)


def changes_of(chosen: Mapping[Phase, Candidate | None]) -> dict[str, int]:
    """Return a proposal as changes to settings, those alone that differ from the default."""
    usual, changes = Evaluations(), {}
    for phase, each in chosen.items():
        if each is None:
            continue
        if each.guidance_interval != usual.guidance_interval:
            changes["guidance_interval"] = each.guidance_interval
        if each.interval == 1:
            continue
        changes[f"{phase}_forecast"] = each.interval
        for name in ("order", "first", "last"):
            if getattr(each, name) != getattr(usual, name):
                changes[f"forecast_{name}"] = getattr(each, name)
    return dict(sorted(changes.items()))


def _allowed(each: Candidate, limit: float) -> bool:
    return each.drift <= limit and (each.order < MOST_ORDER or each.interval <= WIDEST_SECOND_ORDER)


def _caches(chains: Sequence[RecordedChain], forecast: Candidate | None, temperature: float) -> list[Candidate]:
    """Return a phase's condition caches, alone with the error of the kept difference, then over its forecast."""
    if not any(chain.step.halves == 2 for chain in chains):
        return []
    found = []
    for interval in GUIDANCE_INTERVALS:
        alone = candidate(chains, Evaluations(guidance_interval=interval), temperature)
        assert alone is not None
        found.append(replace(alone, error=max(chain.gap_error(interval) for chain in chains)))
    for interval in GUIDANCE_INTERVALS if forecast is not None else ():
        assert forecast is not None
        over = Evaluations(forecast.interval, forecast.order, forecast.first, forecast.last, interval)
        each = candidate(chains, over, temperature)
        assert each is not None
        found.append(each)
    return found


def _require_noise(sampling: SamplingConfig, phases: Sequence[Phase]) -> None:
    """Raise InputError unless a chain adds noise, which drift is a share of."""
    solvers = {sampling.solver(phase) for phase in phases}
    if "ddpm" not in solvers:
        raise InputError(
            f"every phase's solver is {' or '.join(sorted(solvers))}, which adds no noise; drift is a share of a "
            f"chain's noise, so measure with 'ddpm' in a phase."
        )
    if sampling.temperature == 0:
        raise InputError("temperature is 0, so that no step adds noise; drift is a share of a chain's noise.")


def _work(model: HiMAR, step: Step) -> float:
    """The head's work in a step per image, in multiplications; those of attention are left out."""
    head = model.low_head if step.phase == "low" else model.high_head
    positions = model.config.low_positions if step.phase == "low" else model.config.high_positions
    each = step.revealed if isinstance(head, MLPHead) else positions
    return float(step.diffusion_steps * step.halves * each * sum(value.numel() for value in head.parameters()))


def _chain(sampling: SamplingConfig, phase: Phase) -> str:
    counts = sampling.diffusion_counts(phase)
    lengths = f"{counts[0]}" if len(set(counts)) == 1 else "/".join(map(str, counts))
    return f"{len(counts)} autoregressive steps × {lengths} of {sampling.solver(phase)}"


def _words(
    sampling: SamplingConfig, phase: Phase, forecasts: Sequence[Candidate], proposed: Candidate | None, limit: float
) -> str:
    """Say what is proposed for a phase, or why nothing is."""
    if proposed is not None and proposed.interval > 1:
        cache = f"; both halves run in one evaluation of {proposed.guidance_interval}"
        return (
            f"one index in {proposed.interval} is evaluated, forecasts of order {proposed.order} between"
            f"{cache if proposed.guidance_interval > 1 else ''}: drift {proposed.drift:.3f}, {proposed.work:.1%} of "
            f"the work is left."
        )
    if sampling.solver(phase) != "ddpm":
        return f"solver {sampling.solver(phase)} adds no noise that could hide a drift: nothing is proposed."
    if not forecasts:
        return "the chains are too short to leave anything out between their ends: no forecast is proposed."
    least = min(forecasts, key=lambda each: each.drift)
    if least.drift > limit:
        return (
            f"no forecast is proposed: the least drift is {least.drift:.3f} (N {least.interval}, order {least.order}, "
            f"first {least.first}), and {limit:g} is the limit; evaluate all."
        )
    return "no forecast is proposed: those within the limit have not the order and ends that the other phase needs."
