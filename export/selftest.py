"""A bundle's self-test: recorded from the eager model when the bundle is built, replayed before it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from himar.config import ModelConfig
from himar.model import HiMAR
from himar.vae import AutoencoderKL
from himar_kernels import PhiloxDraws, SamplingConfig, VerificationError
from himar_runtime import Bundle, PhaseInfo

from .compare import Comparison
from .emulate import emulated_bundle
from .phases import model_info
from .precision_choice import Precision
from .record import Arrays, record
from .vae_graph import check_half_arithmetic
from .verify import COMPONENT_LIMIT, SELFTEST_CASE, backend_for, verify

SELFTEST_HIGH_STEPS = 2
SELFTEST_CHAIN = 50
SELFTEST_FLOPS = 1e12


def check_selftest(
    folder: Path,
    selftest: Arrays,
    vae: AutoencoderKL | None,
    precisions: Mapping[str, Precision],
    device: str,
) -> list[Comparison]:
    """Replay a self-test through the bundle in `folder`; return the comparisons, all of which passed.

    device: where the engines run; on the CPU it is the ONNX graphs that are run, bfloat16 in emulation. Raises
    VerificationError naming the worst output.
    """
    with emulated_bundle(folder) if device == "cpu" else nullcontext(folder) as runnable:
        comparisons = verify(Bundle.open(runnable), selftest, SELFTEST_CASE, device, backend_for(device))
    if device == "cpu" and vae is not None and (precision := precisions["vae_decoder"]) != "fp32":
        limit = COMPONENT_LIMIT[precision]
        comparisons.append(check_half_arithmetic(vae, precision, selftest["vae/latent"], limit))
    failed = [c for c in comparisons if c.passed is False]
    if failed:
        worst = max(failed, key=lambda c: c.relative_l2)
        raise VerificationError(
            f"{worst.name} differs from the eager model by {worst.relative_l2:.2e} (limit {worst.limit:.0e}), so "
            f"the bundle was not kept; build that component with --precision NAME=fp32, or report it."
        )
    return comparisons


def record_selftest(model: HiMAR, vae: AutoencoderKL | None) -> Arrays:
    """A short guided run of two images through both phases, and one forward of each component."""
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
    return record(model, vae, labels, draws=PhiloxDraws(0), sampling=sampling, case=SELFTEST_CASE)


def _affordable_chain(config: ModelConfig, phase: PhaseInfo) -> int:
    """Return the longest chain whose head fits the self-test's FLOPs; short ones magnify rounding (see verify).

    A DiT head runs over every position in each step, an MLP head once for every position.
    """
    if phase.kind == "dit":
        rows, products = 4 * phase.positions, 18 * config.dit_width**2 * config.dit_depth
    else:
        rows, products = 4 * phase.positions // SELFTEST_HIGH_STEPS, 5 * config.mlp_width**2 * config.mlp_depth
    one_step = 2 * rows * products
    return int(min(max(SELFTEST_FLOPS / (SELFTEST_HIGH_STEPS * one_step), 12), SELFTEST_CHAIN))


def _guided(scale: float) -> float:
    """Guidance doubles the rows, and engines have been wrong at some row counts alone: always test with it."""
    return scale if scale != 1 else 2.0
