"""Runs whole generations on both sides: the same labels, seed and settings, to pixels or, without a VAE, to latents."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError
from himar_kernels.shared.console import NOTICES
from himar_runtime import Pipeline

from .eager import compiling, wait_for
from .eager_text import encoding
from .engines import timed, wait_for_lane
from .measurement import COMPILED, EAGER, EAGER_FP32, ENGINES, Work
from .shown import Shown, generate
from .time_breakdown import Clock, TimeBreakdown, break_down_run, break_down_runs
from .timing import Outputs, Side
from .workload import SEED, Workload

ROUNDING = 1e-2
"""What rounding to 8 bits may add to the images' relative error: about one level in every pixel of dark images."""


def generation_work(workload: Workload, batch: int, compiled: bool, failing: bool = False) -> Work:
    """Return whole generations of `batch` images; the reference is eager in float32.

    failing: engines that fail give NaN (`or_nan`), and end nothing.
    """
    family, images, sampling = workload.family, workload.shown(batch), workload.sampling
    own = family.eager_networks(workload.model, workload.vae, workload.eager_precisions)
    own_text, plain_text = encoding(workload.text, workload.eager_precisions), encoding(workload.text, {})

    def eager() -> Outputs:
        return family.run_eager(own, own_text(images), sampling, SEED)

    def engines() -> Outputs:
        return run_engines(workload.pipeline, images, sampling)

    usual = eager()
    half = set(workload.eager_precisions.values()) != {"fp32"}
    plain = family.eager_networks(workload.model, workload.vae, {})

    def eager_fp32() -> Outputs:
        return family.run_eager(plain, plain_text(images), sampling, SEED)

    reference = eager_fp32() if half else usual
    first_engines = functools.cache(or_nan(ENGINES, engines, reference) if failing else engines)
    limits = family.limits(workload, usual, reference, first_engines)

    sides = [Side(EAGER, eager, lambda: usual), Side(ENGINES, engines, first_engines)]
    if half and workload.device.type == "cpu":
        sides.insert(1, Side(EAGER_FP32, eager_fp32, lambda: reference))
    if compiled:
        fused = family.eager_networks(workload.model, workload.vae, workload.eager_precisions, compiled=True)

        def run() -> Outputs:
            return family.run_eager(fused, own_text(images), sampling, SEED)

        def first() -> Outputs:
            with compiling():
                return run()

        sides.insert(-1, Side(COMPILED, run, first))
    return Work("generation", batch, reference, limits, sides, lambda: family.compare_instead(workload, batch))


def or_nan(side: str, run: Callable[[], Outputs], like: Outputs) -> Callable[[], Outputs]:
    """Return a run that warns of an EngineError, such as values that are not finite, and then gives NaN."""

    def tolerant() -> Outputs:
        try:
            return run()
        except EngineError as error:
            NOTICES.log(logging.INFO, f"warning: {side}: {error}")
            return {name: np.full(np.shape(values), np.nan) for name, values in like.items()}

    return tolerant


def break_down_generation(workload: Workload, batch: int) -> dict[str, TimeBreakdown]:
    """Return where a generation's time goes on both sides, in extra runs that take turns: see `break_down_runs`.

    On a GPU every call is waited for and nothing is replayed from recorded graphs, so the whole takes longer than a
    timed run.
    """
    family, images, sampling = workload.family, workload.shown(batch), workload.sampling
    parts = family.parts(workload)
    eager_clock, clock = Clock(wait_for(workload.device)), Clock(wait_for_lane(workload.networks))
    own = family.eager_networks(workload.model, workload.vae, workload.eager_precisions, clock=eager_clock)
    text = encoding(workload.text, workload.eager_precisions, eager_clock)
    pipeline = Pipeline(workload.bundle, timed(workload.networks, clock))
    ways = {
        EAGER: lambda: break_down_run(lambda: family.run_eager(own, text(images), sampling, SEED), eager_clock, parts),
        ENGINES: lambda: break_down_run(lambda: run_engines(pipeline, images, sampling), clock, parts),
    }
    return break_down_runs(ways)


def run_engines(pipeline: Pipeline, images: Shown, sampling: Any) -> Outputs:
    """Generate with the engines; return what `FamilyBench.run_eager` does, where their bundle decodes."""
    result = generate(pipeline, images, sampling)
    outputs: dict[str, NDArray[Any]] = {"latents": result.latents, **result.arrays}
    if result.images is not None and len(result.images):
        outputs["images"] = result.images
    return outputs
