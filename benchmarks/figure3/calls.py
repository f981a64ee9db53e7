"""Lists the calls of its networks that a generation makes, and computes its seconds from those of single calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from benchmarks.figure3.host import Call
from himar_kernels.families.hi_mar import SamplingConfig, plan
from himar_kernels.families.hi_mar.phases import VAE_DECODER, ModelInfo
from himar_runtime.decode import DECODE_BATCH

Series = tuple[str, int]


def calls_of(model: ModelInfo, sampling: SamplingConfig, batch: int, decodes: bool) -> Counter[Call]:
    """Return how often a generation of `batch` images makes every call, by its shape (docs/model.md §6)."""
    phases = {phase.name: phase for phase in model.phases}
    calls: Counter[Call] = Counter()
    for step in plan(sampling, model.low_positions, model.high_positions):
        phase = phases[step.phase]
        rows = batch * step.halves
        calls[Call(phase.transformer, rows, phase.positions - step.masked)] += 1
        samples = batch * (step.revealed if phase.kind == "mlp" else 1)
        for halves in sampling.evaluations(step.phase).halves(step.diffusion_steps, step.halves):
            calls[Call(phase.head, halves * samples)] += 1
    if decodes:
        whole, rest = divmod(batch, DECODE_BATCH)
        calls[Call(VAE_DECODER, DECODE_BATCH)] += whole
        calls[Call(VAE_DECODER, rest)] += 1
    return Counter({call: count for call, count in calls.items() if call.rows and count})


def chosen(calls: Collection[Call], most: int) -> list[Call]:
    """Return the calls to time: of every series all that there are, or `most` of them spread from least to largest."""
    found: list[Call] = []
    for series in dict.fromkeys(series_of(call) for call in calls):
        own = sorted({call for call in calls if series_of(call) == series}, key=size_of)
        places = np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int)
        found += [own[place] for place in dict.fromkeys(places.tolist())]
    return found


def composed(calls: Mapping[Call, int], timed: Mapping[Call, float]) -> dict[str, float]:
    """Return every component's seconds: the sum over its calls of count times seconds, by `weights_of` timed ones."""
    seconds: dict[str, float] = {}
    for call, weight in weights_of(calls, timed).items():
        if weight:
            seconds[call.component] = seconds.get(call.component, 0.0) + weight * timed[call]
    return seconds


def weights_of(calls: Mapping[Call, int], timed: Collection[Call]) -> dict[Call, float]:
    """Return how often the seconds of each timed call stand in a generation's.

    A shape that was not timed lies between two of its series that were, and takes their line: an encoder's work grows
    with the visible positions, a head's with its samples. Raises KeyError for a series of which nothing was timed.
    """
    weights = dict.fromkeys(timed, 0.0)
    for call, count in calls.items():
        own = sorted((each for each in timed if series_of(each) == series_of(call)), key=size_of)
        if not own:
            raise KeyError(series_of(call))
        sizes = [size_of(each) for each in own]
        for each, unit in zip(own, np.eye(len(own)), strict=True):
            weights[each] += count * float(np.interp(size_of(call), sizes, unit))
    return weights


def series_of(call: Call) -> Series:
    """Return what calls have in common that differ in one size: a transformer's visible positions, any other's rows."""
    return (call.component, call.rows if call.component.startswith("transformer") else 0)


def size_of(call: Call) -> int:
    """Return the size in which calls of a series differ."""
    return call.known if call.component.startswith("transformer") else call.rows
