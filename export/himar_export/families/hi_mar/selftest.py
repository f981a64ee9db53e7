"""Records a bundle's self-test from the eager model: a run that is short, and yet goes through every component."""

from __future__ import annotations

from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.model import HiMAR
from himar.vae.autoencoder import AutoencoderKL
from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.phases import PhaseInfo

from .phases import model_info
from .record import Arrays, record

SELFTEST_HIGH_STEPS = 2
SELFTEST_CHAIN = 50
SELFTEST_FLOPS = 1e12


def record_selftest(model: HiMAR, vae: AutoencoderKL | None, case: str) -> Arrays:
    """Record a short guided run of two images through both phases, and one forward of each component."""
    config = model.config
    usual = config.default_sampling
    sampling = SamplingConfig(
        low_steps=min(2, max(config.low_positions, 1)),
        high_steps=min(SELFTEST_HIGH_STEPS, config.high_positions),
        low_guidance=_guided(usual.low_guidance),
        high_guidance=_guided(usual.high_guidance),
        low_diffusion_steps=SELFTEST_CHAIN,
        high_diffusion_steps=_affordable_chain(config, model_info(config).phase("high")),
    )
    labels = [0, config.classes - 1]
    return record(model, vae, labels, draws=PhiloxDraws(0), sampling=sampling, case=case)


def _affordable_chain(config: ModelConfig, phase: PhaseInfo) -> int:
    """Return the longest chain whose head fits the self-test's FLOPs; short ones magnify rounding (see verify).

    A DiT head runs over every position in each step, an MLP head once for every position.
    """
    if phase.kind == "dit":
        rows, multiplications = 4 * phase.positions, 18 * config.dit_width**2 * config.dit_depth
    else:
        rows, multiplications = 4 * phase.positions // SELFTEST_HIGH_STEPS, 5 * config.mlp_width**2 * config.mlp_depth
    one_step = 2 * rows * multiplications
    return int(min(max(SELFTEST_FLOPS / (SELFTEST_HIGH_STEPS * one_step), 12), SELFTEST_CHAIN))


def _guided(scale: float) -> float:
    """Guidance doubles the rows, and engines have been wrong at some row counts alone: always test with it."""
    return scale if scale != 1 else 2.0
