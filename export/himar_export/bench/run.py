"""Runs `himar-export bench`: everything that is measured, in order, and what is kept of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from himar_kernels import EngineError
from himar_kernels.shared.files import file_sha256
from himar_runtime import Bundle
from himar_runtime.families.family import Sampling

from ..cost.cost import Peaks
from ..make.assemble import within
from .eager import plain_float32
from .environment import device_peaks, environment
from .generation import break_down_generation, generation_work
from .measurement import EAGER, ENGINES, SIDES, Measurement, measure
from .mixes import Mix, MixResult, mix_results, mixes, with_mixes
from .roofline import Reached, costs_of, of_breakdown, of_call, of_generation
from .time_breakdown import TimeBreakdown
from .timing import Advance
from .workload import SEED, Sources, Workload, load, require_batch


@dataclass(frozen=True)
class BenchRequest:
    """What `himar-export bench` was asked for.

    compiled: torch.compile too; components: single components too; memory: processes that measure it. warm_limit: most
    seconds of each side's warm-up. eager_components: names of those to run eagerly in the engines' loop (`mixes`).
    """

    sources: Sources
    batches: Sequence[int]
    repeats: int
    warm_limit: float = 3.0
    threads: int | None = None
    compiled: bool = False
    components: bool = False
    memory: bool = False
    eager_components: Sequence[str] = ()
    command: Sequence[str] = ()


@dataclass(frozen=True)
class Memory:
    """Bytes of a side's process.

    imported: resident once its libraries are imported, before weights. peak: the most that was resident. device: what
    the GPU's driver has given out after the generation beyond what it had before the weights, without the process's
    own context; the allocators keep what they had at their peak. allocated: PyTorch's own peak in it. None on a CPU.
    """

    imported: int
    peak: int
    device: int | None = None
    allocated: int | None = None


@dataclass(frozen=True)
class Generation:
    """Whole generations at one batch size.

    breakdowns: where a run's time goes, by side. reached: by the engines in each component of that run;
    breakdown_whole: in all of it. whole: by the engines' median generation. memory: by side, where it was asked for;
    memory_error: why there is none. phases: those of the family, in order. All empty or None where outputs differ.
    mixes: what the engines gave with single components run eagerly, and what the other sides gave.
    """

    measurement: Measurement
    breakdowns: Mapping[str, TimeBreakdown] = field(default_factory=dict)
    reached: Mapping[str, Reached] = field(default_factory=dict)
    breakdown_whole: Reached | None = None
    whole: Reached | None = None
    memory: Mapping[str, Memory] = field(default_factory=dict)
    memory_error: str | None = None
    phases: tuple[str, ...] = ()
    mixes: tuple[MixResult, ...] = ()


@dataclass(frozen=True)
class ComponentResult:
    """One call of a component at one batch size: `rows` rows, samples or images, and what the engines reached."""

    measurement: Measurement
    rows: int
    reached: Reached | None


@dataclass(frozen=True)
class BenchReport:
    """All that was measured.

    given, to: "labels", "contexts" or "prompts", and "images" or "latents": where generations begin and end.
    precision: of each component. eager_precision: the eager side's, float32 where engines have int8. workload: the
    settings in words. peaks: this device's, measured just before. bundle_id, checkpoint_sha256: hashes of what was
    compared; built_from_it: whether the bundle says that it was built from that very file.
    """

    environment: Mapping[str, Any]
    bundle: str
    bundle_id: str
    checkpoint_sha256: str
    built_from_it: bool
    backend: str
    device: str
    threads: int
    given: str
    to: str
    seed: int
    repeats: int
    precision: Mapping[str, str]
    eager_precision: Mapping[str, str]
    sampling: Sampling
    workload: str
    peaks: Peaks
    generations: tuple[Generation, ...]
    components: tuple[ComponentResult, ...] = ()

    @property
    def differ(self) -> tuple[str, ...]:
        """Say which sides gave other outputs, and so have no latency; of mixes only where the engines' were right."""
        measurements = [each.measurement for each in self.generations]
        measurements += [each.measurement for each in self.components]
        return tuple(
            f"{m.name} at batch {m.batch}: {m.refused[side]}"
            for m in measurements
            for side in m.differ
            if side in SIDES or ENGINES not in m.differ
        )


def run_bench(request: BenchRequest, advance: Advance) -> BenchReport:
    """Load both sides, measure the device's peaks, then every batch size.

    Raises ConfigError, EngineError and InputError as `load` does, InputError for a batch beyond the bundle's, and as
    `mixes` does.
    """
    opened = Bundle.open(request.sources.bundle)
    for batch in request.batches:
        require_batch(opened, batch)
    with plain_float32(request.threads) as threads:
        advance("loading both sides", 0.0)
        workload = load(request.sources, threads)
        checkpoint = file_sha256(request.sources.checkpoint)
        found = environment(str(workload.device), request.command)  # before this makes the machine busy itself
        advance("measuring the device's peaks", 0.03)
        peaks = device_peaks(str(workload.device), workload.family.peak_precision(workload.eager_precisions))
        found_mixes = mixes(workload, request.eager_components)
        generations: list[Generation] = []
        components: list[ComponentResult] = []
        for number, batch in enumerate(request.batches):
            start, share = 0.05 + 0.95 * number / len(request.batches), 0.95 / len(request.batches)
            middle = start + share * (0.6 if request.components else 1.0)
            part = within(advance, start, middle)
            generations.append(_generation(request, workload, batch, threads, peaks, found_mixes, part))
            if request.components:
                components += _components(request, workload, batch, peaks, within(advance, middle, start + share))
    return BenchReport(
        environment=found,
        bundle=str(request.sources.bundle),
        bundle_id=opened.id,
        checkpoint_sha256=checkpoint,
        built_from_it=checkpoint == opened.manifest.provenance.get("checkpoint", {}).get("sha256"),
        backend=f"{opened.manifest.backend.name} {opened.manifest.backend.version}",
        device=str(workload.device),
        threads=threads,
        given=workload.given,
        to="latents" if workload.vae is None else "images",
        seed=SEED,
        repeats=request.repeats,
        precision=workload.precisions,
        eager_precision=workload.eager_precisions,
        sampling=workload.sampling,
        workload=workload.request.title,
        peaks=peaks,
        generations=tuple(generations),
        components=tuple(components),
    )


def _generation(
    request: BenchRequest,
    workload: Workload,
    batch: int,
    threads: int,
    peaks: Peaks,
    found_mixes: Sequence[Mix],
    advance: Advance,
) -> Generation:
    def say(text: str, fraction: float) -> None:
        advance(f"batch {batch}: {text}", 0.75 * fraction)

    work = with_mixes(generation_work(workload, batch, request.compiled, failing=bool(found_mixes)), found_mixes)
    measurement = measure(work, request.repeats, request.warm_limit, say)
    _forget_compiled(request)
    results = mix_results(work, found_mixes, measurement)
    if ENGINES not in measurement.times or EAGER not in measurement.times:
        return Generation(measurement, mixes=results)
    advance(f"batch {batch}: where the time goes", 0.75)
    breakdowns = break_down_generation(workload, batch)
    costs = costs_of(workload.request, batch, peaks)
    memory: Mapping[str, Memory] = {}
    memory_error: str | None = None
    if request.memory:
        advance(f"batch {batch}: memory, in processes of their own", 0.9)
        try:
            memory = peak_memory(request.sources, workload, batch, threads)
        except EngineError as error:  # after all that was timed, which it must not cost
            memory_error = str(error)
    median = measurement.times[ENGINES].summary.median
    return Generation(
        measurement,
        breakdowns,
        of_breakdown(costs, breakdowns[ENGINES], peaks),
        of_generation(costs, breakdowns[ENGINES].seconds, peaks),
        of_generation(costs, median, peaks),
        memory,
        memory_error,
        workload.family.phases,
        results,
    )


def _components(
    request: BenchRequest, workload: Workload, batch: int, peaks: Peaks, advance: Advance
) -> list[ComponentResult]:
    calls = workload.family.component_calls(workload, batch, request.compiled)
    results = []
    for number, call in enumerate(calls):
        part = within(advance, number / len(calls), (number + 1) / len(calls))
        part(f"batch {batch}: {call.work.name}", 0.0)
        measurement = measure(
            call.work,
            request.repeats,
            request.warm_limit,
            lambda text, done, part=part, name=call.work.name: part(f"{name}: {text}", done),  # type: ignore[misc]
        )
        timed = measurement.times.get(ENGINES)
        found = None if timed is None else of_call(call.cost, timed.summary.median, peaks)
        results.append(ComponentResult(measurement, call.rows, found))
    _forget_compiled(request)
    return results


def peak_memory(
    sources: Sources, workload: Workload, batch: int, threads: int, *, generation_alone: bool = False
) -> dict[str, Memory]:
    """Generate `batch` images once on either side, each in a process of its own; EngineError when one fails.

    generation_alone: the engines that the settings need alone are loaded, and what loading takes beyond the weights is
    not in the peak (on Linux).
    """
    model = workload.bundle.manifest.model
    asked = {
        "bundle": str(sources.bundle),
        "family": workload.bundle.manifest.family,
        "checkpoint": str(sources.checkpoint),
        "config": sources.config,
        "vae": None if sources.vae is None else str(sources.vae),
        "weights": sources.weights,
        "device": sources.device,
        "threads": threads,
        "shown": [batch, model.classes, model.context_shape, workload.text is not None],
        "text": None if sources.text is None else str(sources.text),
        "seed": SEED,
        "sampling": workload.sampling.to_dict(),
        "precisions": dict(workload.eager_precisions),
        "components": [name for name, _ in workload.family.parts(workload)] if generation_alone else None,
    }
    return {side: _memory_of_child({**asked, "side": side}) for side in (EAGER, ENGINES)}


def _memory_of_child(asked: dict[str, object]) -> Memory:
    command = [sys.executable, "-m", "himar_export.bench.memory_child", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"the process that measures the memory of {asked['side']} failed: {lines[-1]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def _forget_compiled(request: BenchRequest) -> None:
    """Let every batch size be compiled for its own shapes, and not count against the most recompilations."""
    if request.compiled:
        torch.compiler.reset()
