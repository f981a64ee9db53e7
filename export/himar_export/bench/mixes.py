"""Runs single components eagerly in the engines' loop: of all that the loop mixes, which one is wrong, or slow?"""

from __future__ import annotations

import functools
import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from himar_kernels import EngineError, InputError
from himar_kernels.families.registry import TEXT_ENCODER, VAE_DECODER
from himar_kernels.shared.console import NOTICES
from himar_runtime import Networks, Pipeline

from ..verify.compare import Comparison, compare
from .eager import wait_for
from .eager_engine import EagerEngine, Run
from .eager_text import eager_tower, text_call
from .engines import timed
from .generation import or_nan, run_engines
from .measurement import EAGER, EAGER_FP32, ENGINES, Measurement, Work
from .time_breakdown import Clock
from .timing import Outputs, Side
from .workload import Workload

ALL = "all"
"""In the place of a component's name: each that a generation calls, in turn, and at last all of them together."""


@dataclass(frozen=True)
class Mix:
    """The engines with some components in PyTorch.

    side: its name in the report. components: what PyTorch runs. workload: the bundle's with these networks.
    """

    side: str
    components: tuple[str, ...]
    workload: Workload


@dataclass(frozen=True)
class Difference:
    """How far two generations are apart.

    latents: relative L2; infinite where a value is not finite, and the others are None then. pixels: largest difference
    of levels 0 … 255, None where generations end at latents. codes: share of those that differ, None where a model has
    none.
    """

    latents: float
    pixels: int | None
    codes: float | None

    @classmethod
    def of(cls, found: Outputs, expected: Outputs) -> Difference:
        """Return that of two generations of one request."""
        both = {name: (found[name], expected[name]) for name in expected if name in found}
        latents = compare("latents", *both["latents"], None).relative_l2
        pixels = codes = None
        if not np.isfinite(latents):
            return cls(latents, None, None)
        if "images" in both:
            ours, theirs = both["images"]
            pixels = int(np.abs(ours.astype(np.int16) - theirs).max(initial=0))
        if "codes" in both:
            ours, theirs = both["codes"]
            codes = float(np.mean(ours != theirs))
        return cls(latents, pixels, codes)


@dataclass(frozen=True)
class MixResult:
    """What a side gave, the engines and eager among them.

    components: what PyTorch ran in the engines' loop; empty of the other sides. from_eager: the difference from eager
    in float32; from_engines: from the bundle's engines. parts: where whole outputs are not comparable, the largest
    relative error among its single components' outputs, else None. agrees: whether its outputs are within the limits.
    """

    side: str
    components: tuple[str, ...]
    from_eager: Difference
    from_engines: Difference
    parts: float | None
    agrees: bool


def mixes(workload: Workload, names: Sequence[str]) -> tuple[Mix, ...]:
    """Return a mix for each named component, in float32 too where the eager side is in half precision.

    Runs a generation, which tells what it calls. Raises InputError for a component that it does not call, or that
    PyTorch has nothing for.
    """
    if not names:
        return ()
    called = called_components(workload)
    own, plain = _eager_runs(workload, workload.eager_precisions), _eager_runs(workload, {})
    chosen = _possible(called, own) if ALL in names else tuple(dict.fromkeys(names))
    for name in chosen:
        _require_eager(workload, name, called, own)
    found: list[Mix] = []
    half = [name for name in chosen if workload.eager_precisions[name] != "fp32"]
    for name in chosen:
        found.append(_mix(workload, f"{name} eager", own, (name,)))
        if name in half:
            found.append(_mix(workload, f"{name} eager fp32", plain, (name,)))
    if ALL in names:
        found.append(_mix(workload, f"all of these eager{' fp32' if half else ''}", plain, chosen))
    return tuple(found)


def called_components(workload: Workload) -> tuple[str, ...]:
    """Return the components that a generation with the workload's settings runs, in the order of their first runs.

    Where it fails, those that the family says that it would run.
    """
    clock = Clock()
    pipeline = Pipeline(workload.bundle, timed(workload.networks, clock))
    try:
        run_engines(pipeline, workload.shown(1), workload.sampling)
    except EngineError:
        return tuple(name for name, _ in workload.family.parts(workload) if name in workload.networks.engines)
    return tuple(name for name, count in clock.calls.items() if count)


def _eager_runs(workload: Workload, precisions: Mapping[str, str]) -> dict[str, Run]:
    """Return what runs each component in these precisions, of those that eager has."""
    networks = workload.family.eager_networks(workload.model, workload.vae, precisions)
    calls = workload.family.eager_calls(workload.model)
    runs: dict[str, Run] = {name: functools.partial(call, networks) for name, call in calls.items()}
    if workload.text is not None:
        runs[TEXT_ENCODER] = text_call(eager_tower(workload.text.tower, precisions))
    wait_for(workload.device)()  # weights that were cast on PyTorch's stream are read on the lane's
    return runs


def _possible(called: Sequence[str], calls: Container[str]) -> tuple[str, ...]:
    """Return the components called that eager has, `calls`; a notice names the others."""
    if others := [name for name in called if name not in calls]:
        text = f"warning: not tried eagerly, because PyTorch runs their networks as wholes: {', '.join(others)}"
        NOTICES.log(logging.INFO, text)
    return tuple(name for name in called if name in calls)


def _require_eager(workload: Workload, name: str, called: Sequence[str], calls: Container[str]) -> None:
    """Raise InputError for a component that a generation does not call, or that eager does not have, `calls`."""
    if name == VAE_DECODER and workload.vae is None:
        raise InputError(f"{name} runs eagerly with its own checkpoint; give --vae, as for build.")
    if name == TEXT_ENCODER and workload.text is None:
        raise InputError(f"{name} runs eagerly with its own tower; give --text, as for build.")
    if name not in called:
        raise InputError(
            f"{name} has no part in a generation with these settings, so it changes nothing whether it runs eagerly; "
            f"what has a part is {', '.join(called)}."
        )
    if name not in calls:
        raise InputError(
            f"{name} is a part of a network that PyTorch runs as a whole; choose settings that run the whole, or one "
            f"of {', '.join(each for each in called if each in calls)}."
        )


def _mix(workload: Workload, side: str, runs: Mapping[str, Run], names: tuple[str, ...]) -> Mix:
    """Return the engines, with buffers of their own, and the named components in PyTorch among them."""
    networks = workload.networks.clone()
    eager = {name: EagerEngine(networks[name].spec, runs[name], workload.device, networks.lane) for name in names}
    networks = Networks({**networks.engines, **eager}, networks.lane)
    return Mix(side, names, replace(workload, networks=networks, pipeline=Pipeline(workload.bundle, networks)))


def with_mixes(work: Work, found: Sequence[Mix]) -> Work:
    """Return a generation's work with the mixes among its sides."""
    if not found:
        return work
    sides = [replace(side, outputs=functools.cache(side.outputs)) for side in work.sides]
    for mix in found:
        images = mix.workload.shown(work.batch)
        run = functools.partial(run_engines, mix.workload.pipeline, images, mix.workload.sampling)
        sides.append(Side(mix.side, run, functools.cache(or_nan(mix.side, run, work.reference))))
    return replace(work, sides=sides)


def mix_results(work: Work, found: Sequence[Mix], measurement: Measurement) -> tuple[MixResult, ...]:
    """Return what the engines, the eager sides and the mixes of `with_mixes` gave, once they are measured."""
    if not found:
        return ()
    by_side = {mix.side: mix for mix in found}
    outputs = {side.name: side.outputs() for side in work.sides if side.name in (EAGER, EAGER_FP32, ENGINES, *by_side)}
    results = []
    for side, each in outputs.items():
        mix, agrees = by_side.get(side), side not in measurement.refused
        parts: list[Comparison] = []
        if not work.compares and side not in (EAGER, EAGER_FP32):
            parts = [each for each in measurement.comparisons if each.limit is not None]
            if mix is not None:
                parts, agrees = _parts(mix, work.batch, agrees)
        results.append(
            MixResult(
                side,
                () if mix is None else mix.components,
                Difference.of(each, work.reference),
                Difference.of(each, outputs[ENGINES]),
                max((part.relative_l2 for part in parts), default=None),
                agrees and all(part.passed is not False for part in parts),
            )
        )
    return tuple(results)


def _parts(mix: Mix, batch: int, agrees: bool) -> tuple[list[Comparison], bool]:
    """Compare a mix's single components with eager; none, which is wrong, where one of them fails."""
    try:
        return list(mix.workload.family.compare_instead(mix.workload, batch)), agrees
    except EngineError:
        return [], False
