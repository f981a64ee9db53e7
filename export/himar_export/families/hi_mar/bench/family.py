"""Hi-MAR as `bench` knows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from himar.families.hi_mar.model import HiMAR
from himar.vae.autoencoder import AutoencoderKL
from himar_export.bench.component_runs import Call, ComponentCall, compared_components
from himar_export.bench.generation import ROUNDING
from himar_export.bench.shown import Shown
from himar_export.bench.time_breakdown import Clock
from himar_export.bench.timing import Outputs
from himar_export.bench.workload import Workload
from himar_export.make.assemble import load_fitting_vae
from himar_export.verify.compare import Comparison, compare
from himar_export.verify.limits import RUN_MEANINGLESS
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.registry import TEXT_ENCODER, VAE_DECODER
from himar_runtime.families.hi_mar.family import hi_mar_model

from ..verify import run_limits
from .component_runs import component_calls
from .eager import Networks, eager_networks, run_eager
from .eager_components import eager_calls


class HiMarBench:
    """See `himar_export.families.bench.FamilyBench`."""

    phases = ("text", "low", "high", "decode")

    def load_vae(self, path: Path | None, model: HiMAR) -> AutoencoderKL | None:
        """See FamilyBench.load_vae."""
        vae: AutoencoderKL | None = load_fitting_vae(path, model)
        return vae

    def peak_precision(self, precisions: Mapping[str, str]) -> str:
        """See FamilyBench.peak_precision: that of the heads."""
        return next(each for name, each in precisions.items() if "head" in name)

    def eager_networks(
        self,
        model: HiMAR,
        vae: AutoencoderKL | None,
        precisions: Mapping[str, str],
        *,
        compiled: bool = False,
        clock: Clock | None = None,
    ) -> Networks:
        """See FamilyBench.eager_networks."""
        return eager_networks(model, vae, precisions, compiled=compiled, clock=clock)

    def run_eager(self, networks: Networks, images: Shown | Tensor, sampling: SamplingConfig, seed: int) -> Outputs:
        """See FamilyBench.run_eager."""
        return run_eager(networks, images, sampling, seed)

    def limits(
        self, workload: Workload, usual: Outputs, reference: Outputs, engines: Callable[[], Outputs]
    ) -> dict[str, float | None]:
        """See FamilyBench.limits."""
        error = compare("", usual["latents"], reference["latents"], None).relative_l2
        limit = latent_limit(workload, error if np.isfinite(error) else 0.0)  # eager that overflows excuses no engine
        limits = {"latents": limit}
        if workload.vae is not None:
            limits["images"] = None if limit is None else limit + ROUNDING
        return limits

    def compare_instead(self, workload: Workload, batch: int) -> Sequence[Comparison]:
        """See FamilyBench.compare_instead: one call of every component."""
        return compared_components(workload, batch)

    def parts(self, workload: Workload) -> Sequence[tuple[str, str]]:
        """See FamilyBench.parts."""
        phases = hi_mar_model(workload.bundle.manifest).phases
        own = [(name, phase.name) for phase in phases for name in (phase.transformer, phase.head)]
        return [(TEXT_ENCODER, "text"), *own, (VAE_DECODER, "decode")]

    def eager_calls(self, model: HiMAR) -> Mapping[str, Call]:
        """See FamilyBench.eager_calls."""
        return eager_calls(model.config)

    def component_calls(self, workload: Workload, batch: int, compiled: bool) -> list[ComponentCall]:
        """See FamilyBench.component_calls."""
        return component_calls(workload, batch, compiled)


FAMILY = HiMarBench()


def latent_limit(workload: Workload, eager_error: float) -> float | None:
    """Return the largest relative error of a generation's latents; None where rounding alone may exceed any.

    It is that of `himar-export verify`, which grows with what a shorter diffusion chain magnifies, here in float32 too
    without an end. In half precision engines may be twice as far from float32 as the eager model in the same precision.

    Args:
        eager_error: relative error of the eager model in the bundle's precision, 0 in float32.
    """
    _, limit = run_limits(workload.bundle, workload.sampling, float32_gain=math.inf)
    if limit is None:
        return None
    limit = max(limit, 2 * eager_error)
    return limit if limit <= RUN_MEANINGLESS else None
