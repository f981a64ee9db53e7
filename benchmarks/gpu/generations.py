"""Measures whole generations: their time in turns with eager, whether runs are equal to the bit, and their memory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.gpu.process import Figures
from benchmarks.gpu.record import UNFINISHED
from benchmarks.gpu.sides import opened, sources_of
from benchmarks.gpu.turns import Generate, Turns, limit_against_eager, run_in_turns
from himar_export.bench.generation import run_engines
from himar_export.bench.measurement import EAGER, ENGINES
from himar_export.bench.run import peak_memory
from himar_export.bench.workload import SEED
from himar_export.verify.verify import verify_selftest
from himar_runtime import Bundle, Pipeline
from himar_runtime.engines.ort.session import GRAPHS_VARIABLE

RECORDED = "engines, recorded"
LEAST_ROUNDS = 2
"""Two runs of a side, which have to be equal; the first allocates and chooses algorithms."""


def self_test(figures: Figures, bundle: str, device: str) -> None:
    """Replay a bundle's self-test on the device, as `himar-export verify --device` does."""
    found = Bundle.open(bundle)
    figures.keep_same("bundle", found.id)
    if figures.lacks("self-test"):
        compared = verify_selftest(found, device)
        figures.keep(
            "self-test",
            {
                "passed": all(each.passed is not False for each in compared),
                "comparisons": [{**asdict(each), "passed": each.passed} for each in compared],
            },
        )


def generation(figures: Figures, sources: Mapping[str, Any], batch: int, seconds: float) -> bool:
    """Run eager, engines and recorded engines in turns, for about `seconds`, at least twice each."""
    with opened(figures, sources, batch) as (workload, _):
        labels, sampling, family = workload.shown(batch), workload.sampling, workload.family
        own = family.eager_networks(workload.model, workload.vae, workload.eager_precisions)
        sides: dict[str, Generate] = {
            EAGER: lambda: family.run_eager(own, labels, sampling, SEED)["latents"],
            ENGINES: lambda: run_engines(workload.pipeline, labels, sampling)["latents"],
        }
        if {each.backend for each in workload.bundle.manifest.components.values()} == {"onnxruntime"}:
            recording = recording_pipeline(workload.bundle, sources["device"])
            sides[RECORDED] = lambda: run_engines(recording, labels, sampling)["latents"]
        turns, begin = Turns(batch, limit_against_eager(workload)), time.monotonic()

        def another(found: Turns) -> bool:
            round_seconds = sum(each[-1] for each in found.times.values())
            few = min(len(each) for each in found.times.values()) < LEAST_ROUNDS
            return figures.seconds_left() > round_seconds and (
                few or time.monotonic() - begin + round_seconds < seconds
            )

        run_in_turns(
            sides, turns, another, lambda found: figures.keep("generation", {UNFINISHED: True, **found.figures()})
        )
        agreeing = EAGER in turns.times and len(turns.times) > 1
        if agreeing and min(len(each) for each in turns.times.values()) < LEAST_ROUNDS:
            return False
        figures.keep("generation", turns.figures())
    return True


def recording_pipeline(bundle: Bundle, device: str) -> Pipeline:
    """Return a pipeline whose sessions of ONNX Runtime record their runs."""
    before = os.environ.get(GRAPHS_VARIABLE)
    os.environ[GRAPHS_VARIABLE] = "1"
    try:
        return Pipeline.load(bundle.root, device=device)
    finally:
        del os.environ[GRAPHS_VARIABLE]
        if before is not None:
            os.environ[GRAPHS_VARIABLE] = before


def memory(figures: Figures, sources: Mapping[str, Any], batch: int) -> None:
    """Measure the memory of a generation on either side, each in a process of its own."""
    with opened(figures, sources, batch) as (workload, threads):
        found = peak_memory(sources_of(sources), workload, batch, threads)
    figures.keep("memory", {side: asdict(each) for side, each in found.items()})
