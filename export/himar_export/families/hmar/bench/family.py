"""HMAR as `bench` knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from himar.families.hmar.model import HMAR
from himar.families.hmar.tokenizer.network import Tokenizer
from himar_export.bench.component_runs import Call, ComponentCall
from himar_export.bench.generation import ROUNDING
from himar_export.bench.time_breakdown import Clock
from himar_export.bench.timing import Outputs
from himar_export.bench.workload import Workload
from himar_export.make.assemble import load_fitting_vae
from himar_export.verify.compare import Comparison
from himar_export.verify.limits import RUN_LIMIT
from himar_kernels.families.hmar import SamplingConfig
from himar_kernels.families.hmar.sizes import CONDITIONS, MASKED_TAIL, NEXT_SCALE_TAIL, TRUNK, VAR_TAIL, VAR_TRUNK
from himar_kernels.families.registry import VAE_DECODER

from ..family import needed
from ..verify import SMOOTH_LIMIT
from .component_runs import component_calls
from .eager import Networks, eager_networks, run_eager
from .eager_components import eager_calls
from .forwards import compared_forwards


class HmarBench:
    """See `himar_export.families.bench.FamilyBench`."""

    phases = ("class", "scales", "masked", "decode")

    def load_vae(self, path: Path | None, model: HMAR) -> Tokenizer:
        """See FamilyBench.load_vae: the loop needs the tokenizer's codes."""
        return needed(load_fitting_vae(path, model))

    def peak_precision(self, precisions: Mapping[str, str]) -> str:
        """See FamilyBench.peak_precision: that of the trunk."""
        return precisions[TRUNK]

    def eager_networks(
        self,
        model: HMAR,
        vae: Tokenizer,
        precisions: Mapping[str, str],
        *,
        compiled: bool = False,
        clock: Clock | None = None,
    ) -> Networks:
        """See FamilyBench.eager_networks."""
        return eager_networks(model, vae, precisions, compiled=compiled, clock=clock)

    def run_eager(self, networks: Networks, images: Sequence[int], sampling: SamplingConfig, seed: int) -> Outputs:
        """See FamilyBench.run_eager."""
        return run_eager(networks, images, sampling, seed)

    def limits(
        self, workload: Workload, usual: Outputs, reference: Outputs, engines: Callable[[], Outputs]
    ) -> dict[str, float | None]:
        """Ask for equal codes in float32, and latents and images as near as equal codes make them.

        Where codes are not equal, in half precision or because rounding turned one of many thousand draws, outputs have
        no limits and the forwards decide (`compare_instead`).
        """
        names = [name for name in ("codes", "latents", "images") if name in reference]
        exact = set(workload.precisions.values()) == {"fp32"}
        if not exact or ("codes" in names and not np.array_equal(engines()["codes"], reference["codes"])):
            return dict.fromkeys(names, None)
        limit = RUN_LIMIT["fp32"] if "codes" in names else SMOOTH_LIMIT
        known = {"codes": 0.0, "latents": limit, "images": limit + ROUNDING}
        return {name: known[name] for name in names}

    def compare_instead(self, workload: Workload, batch: int) -> Sequence[Comparison]:
        """See FamilyBench.compare_instead."""
        return compared_forwards(workload, batch)

    def parts(self, workload: Workload) -> Sequence[tuple[str, str]]:
        """See FamilyBench.parts."""
        if workload.sampling.all_scales:
            own = [(VAR_TRUNK, "scales"), (VAR_TAIL, "scales")]
        else:
            own = [(TRUNK, "scales"), (NEXT_SCALE_TAIL, "scales"), (MASKED_TAIL, "masked")]
        return [(CONDITIONS, "class"), *own, (VAE_DECODER, "decode")]

    def eager_calls(self, model: HMAR) -> Mapping[str, Call]:
        """See FamilyBench.eager_calls."""
        return eager_calls(model.config)

    def component_calls(self, workload: Workload, batch: int, compiled: bool) -> list[ComponentCall]:
        """See FamilyBench.component_calls."""
        return component_calls(workload, batch, compiled)


FAMILY = HmarBench()
