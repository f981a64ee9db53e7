"""Warns of diffusion chains that are too short for heads in int8."""

from __future__ import annotations

from himar_kernels.families.hi_mar import phase_chains
from himar_runtime import Manifest
from himar_runtime.families.hi_mar.family import hi_mar_model

INT8_GAIN = 400.0
"""Gain of a chain's first step (Chain.first_step_gain) up to which int8 was seen to keep quality (docs/int8.md)."""


def int8_advice(manifest: Manifest) -> str | None:
    """Say which of a bundle's sampling settings go down a chain too short for its heads in int8; None where none does.

    The chain's first step magnifies a head's rounding, int8's the most.
    """
    short = []
    for name, sampling in manifest.sampling.items():
        chains = phase_chains(sampling)
        for phase in hi_mar_model(manifest).phases:
            rounded = manifest.components[phase.head].precision == "int8"
            if rounded and chains[phase.name].first_step_gain > INT8_GAIN and name not in short:
                short.append(name)
    if not short:
        return None
    return (
        f"int8 is coarse for the diffusion chains of {', '.join(repr(name) for name in short)}: take at least 100 "
        f"diffusion steps, or a solver such as dpm++ (docs/int8.md)."
    )
