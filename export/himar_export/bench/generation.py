"""Runs whole generations on both sides: the same labels, seed and settings, to pixels or, without a VAE, to latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from himar.families.hi_mar.sampler import generate
from himar.images import to_pixels
from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig, phase_chains
from himar_runtime import Pipeline
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.families.hi_mar.family import hi_mar_model

from ..families.hi_mar.verify import run_limits
from ..verify.compare import compare
from ..verify.limits import RUN_MEANINGLESS
from .component_runs import compared_components
from .eager import Networks, compiling, eager_networks, wait_for
from .engines import timed, wait_for_lane
from .measurement import COMPILED, EAGER, EAGER_FP32, ENGINES, Work
from .time_breakdown import Clock, TimeBreakdown, break_down_run, break_down_runs
from .timing import Outputs, Side
from .workload import SEED, Workload

ROUNDING = 1e-2
"""What rounding to 8 bits may add to the images' relative error: about one level in every pixel of dark images."""


def generation_work(workload: Workload, batch: int, compiled: bool) -> Work:
    """Return whole generations of `batch` images; the reference is eager in float32."""
    labels, sampling = workload.labels(batch), workload.sampling
    own = eager_networks(workload.model, workload.vae, workload.eager_precisions)

    def eager() -> Outputs:
        return run_eager(own, labels, sampling)

    def engines() -> Outputs:
        return run_engines(workload.pipeline, labels, sampling)

    usual = eager()
    half = set(workload.eager_precisions.values()) != {"fp32"}
    plain = eager_networks(workload.model, workload.vae, {})

    def eager_fp32() -> Outputs:
        return run_eager(plain, labels, sampling)

    reference = eager_fp32() if half else usual
    error = compare("", usual["latents"], reference["latents"], None).relative_l2
    limit = latent_limit(workload, error if np.isfinite(error) else 0.0)  # eager that overflows excuses no engine
    limits = {"latents": limit}
    if workload.vae is not None:
        limits["images"] = None if limit is None else limit + ROUNDING

    sides = [Side(EAGER, eager, lambda: usual), Side(ENGINES, engines, engines)]
    if half and workload.device.type == "cpu":
        sides.insert(1, Side(EAGER_FP32, eager_fp32, lambda: reference))
    if compiled:
        fused = eager_networks(workload.model, workload.vae, workload.eager_precisions, compiled=True)

        def run() -> Outputs:
            return run_eager(fused, labels, sampling)

        def first() -> Outputs:
            with compiling():
                return run()

        sides.insert(-1, Side(COMPILED, run, first))
    return Work("generation", batch, reference, limits, sides, lambda: compared_components(workload, batch))


def latent_limit(workload: Workload, eager_error: float) -> float | None:
    """Return the largest relative error of a generation's latents; None where rounding alone may exceed any.

    It is that of `himar-export verify` for the bundle's own workload. A shorter diffusion chain magnifies rounding in
    float32 too, and the limit grows with it (Chain.first_step_gain). In half precision engines may be twice as far from
    float32 as the eager model in the same precision.

    Args:
        eager_error: relative error of the eager model in the bundle's precision, 0 in float32.
    """
    _, limit = run_limits(workload.bundle, workload.sampling)
    if limit is None:
        return None
    if set(workload.precisions.values()) == {"fp32"}:
        usual = next(iter(workload.bundle.manifest.sampling.values()))
        limit *= max(1.0, _gain(workload, workload.sampling) / _gain(workload, usual))
    limit = max(limit, 2 * eager_error)
    return limit if limit <= RUN_MEANINGLESS else None


def _gain(workload: Workload, sampling: SamplingConfig) -> float:
    chains = phase_chains(sampling)
    return max(chains[phase.name].first_step_gain for phase in hi_mar_model(workload.bundle.manifest).phases)


def break_down_generation(workload: Workload, batch: int) -> dict[str, TimeBreakdown]:
    """Return where a generation's time goes on both sides, in extra runs that take turns: see `break_down_runs`.

    On a GPU every call is waited for and nothing is replayed from recorded graphs, so the whole takes longer than a
    timed run.
    """
    labels, sampling = workload.labels(batch), workload.sampling
    phases = hi_mar_model(workload.bundle.manifest).phases
    eager_clock, clock = Clock(wait_for(workload.device)), Clock(wait_for_lane(workload.networks))
    own = eager_networks(workload.model, workload.vae, workload.eager_precisions, clock=eager_clock)
    pipeline = Pipeline(workload.bundle, timed(workload.networks, clock))
    ways = {
        EAGER: lambda: break_down_run(lambda: run_eager(own, labels, sampling), eager_clock, phases),
        ENGINES: lambda: break_down_run(lambda: run_engines(pipeline, labels, sampling), clock, phases),
    }
    return break_down_runs(ways)


@torch.inference_mode()
def run_eager(networks: Networks, labels: Sequence[int], sampling: SamplingConfig, seed: int = SEED) -> Outputs:
    """Generate with PyTorch; return latents (B, C, h, w) and, with a VAE, images uint8 (B, H, W, 3)."""
    model, vae = networks
    latents = generate(model, labels, draws=PhiloxDraws(seed), sampling=sampling)
    outputs: dict[str, NDArray[Any]] = {"latents": latents.cpu().numpy()}
    if vae is not None:
        # As many at once as the runtime decodes: activations of more would only cost memory.
        outputs["images"] = np.concatenate([to_pixels(vae.decode(part)) for part in latents.split(DECODE_BATCH)])
    return outputs


def run_engines(pipeline: Pipeline, labels: Sequence[int], sampling: SamplingConfig) -> Outputs:
    """Generate with the engines; return what `run_eager` does, where their bundle decodes."""
    result = pipeline.generate(labels, seed=SEED, sampling=sampling)
    outputs: dict[str, NDArray[Any]] = {"latents": result.latents}
    if result.images is not None and len(result.images):
        outputs["images"] = result.images
    return outputs
