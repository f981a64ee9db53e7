"""`himar-export build`: checkpoint in, verified bundle out, or nothing at all."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch

from himar.checkpoints import DEFAULT_WEIGHTS, load_checkpoint
from himar.config import ModelConfig
from himar.model import HiMAR
from himar.vae import AutoencoderKL, load_vae, require_fit
from himar_kernels import BuildError, PhiloxDraws, SamplingConfig, VerificationError
from himar_runtime import SCHEMA_VERSION, Bundle

from .compare import Comparison
from .components import Component, components
from .emulate import emulated_bundle
from .files import new_folder, sha256, write_npz
from .manifest import BundleWriter
from .precision import Precision, check_precision
from .record import record
from .vae_graph import check_half_arithmetic
from .verify import COMPONENT_LIMIT, SELFTEST_CASE, verify

log = logging.getLogger(__name__)

BACKENDS = ("onnxruntime",)
MAX_BATCH_LIMIT = 1024

SELFTEST_HIGH_STEPS = 2
SELFTEST_CHAIN = 50
SELFTEST_FLOPS = 1e12

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Attributes:
        checkpoint: a Hi-MAR checkpoint, released layout or ours.
        out: folder that the bundle becomes; it must not exist.
        config: preset, JSON file or mapping; None takes the one that the checkpoint carries.
        vae: KL-VAE checkpoint; None builds a bundle that gives latents.
        precision: of every component that `component_precision` does not name.
        component_precision: component name → precision.
        max_batch: most images that one run of the engines takes; larger requests are run in chunks.
        weights: entry of a `.pth` checkpoint to use; None takes model_ema.
        command: the command line, for the manifest's provenance.
    """

    checkpoint: Path
    out: Path
    config: str | Path | Mapping[str, Any] | None = None
    vae: Path | None = None
    precision: Precision = "fp32"
    component_precision: Mapping[str, str] = field(default_factory=dict)
    max_batch: int = 64
    backend: str = "onnxruntime"
    weights: str | None = None
    command: tuple[str, ...] = ()


def build(request: BuildRequest, progress: Progress = lambda text, fraction: None) -> list[Comparison]:
    """Build and verify a bundle; return the comparisons of its self-test.

    Raises:
        CheckpointError, ConfigError: the checkpoint, the VAE or the configuration do not fit (see their loaders).
        BuildError: the output exists or cannot be written, a precision or backend is unknown, a weight overflows.
        VerificationError: what was built does not give the model's numbers; nothing is left behind.
    """
    _check_request(request)
    progress("reading the checkpoint", 0.0)
    with new_folder(request.out) as folder:
        model = load_checkpoint(request.checkpoint, request.config, weights=request.weights)
        vae = load_fitting_vae(request.vae, model)
        parts = components(model, vae, request.max_batch)
        precisions = _precisions(request, parts)
        writer = BundleWriter(folder, model, request.max_batch)
        for number, component in enumerate(parts):
            precision = precisions[component.name]
            progress(f"exporting {component.name} in {precision}", 0.05 + 0.6 * number / len(parts))
            writer.add_component(component, precision)
        writer.add_condition_embedding("mlp_head", model.mlp_head.cond_embed)
        writer.add_condition_embedding("dit_head", model.dit_head.c_embedder.proj)
        writer.close_weights()

        progress("recording the self-test from the eager model", 0.7)
        selftest = _selftest(model, vae)
        write_npz(folder / "selftest.npz", selftest)
        writer.write_manifest(request.backend, _provenance(request), schema_version=SCHEMA_VERSION)

        progress("verifying the engines against the eager model", 0.85)
        with emulated_bundle(folder) as runnable:
            comparisons = verify(Bundle.open(runnable), selftest, SELFTEST_CASE)
        if vae is not None and (precision := precisions["vae_decoder"]) != "fp32":
            limit = COMPONENT_LIMIT[precision]
            comparisons.append(check_half_arithmetic(vae, precision, selftest["vae/latent"], limit))
        failed = [c for c in comparisons if c.passed is False]
        if failed:
            worst = max(failed, key=lambda c: c.relative_l2)
            raise VerificationError(
                f"{worst.name} differs from the eager model by {worst.relative_l2:.2e} (limit {worst.limit:.0e}), so "
                f"the bundle was not kept; build that component with --precision NAME=fp32, or report it."
            )
        writer.add_verification(comparisons)
        progress("done", 1.0)
    return comparisons


def _check_request(request: BuildRequest) -> None:
    if request.backend not in BACKENDS:
        raise BuildError(f"backend {request.backend!r} is unknown; this version builds for {', '.join(BACKENDS)}.")
    if not 1 <= request.max_batch <= MAX_BATCH_LIMIT:
        raise BuildError(f"max_batch is {request.max_batch}; it must be 1 to {MAX_BATCH_LIMIT}.")
    check_precision(request.precision, "the bundle")


def _precisions(request: BuildRequest, parts: tuple[Component, ...]) -> dict[str, Precision]:
    names = [component.name for component in parts]
    for name, value in request.component_precision.items():
        if name not in names:
            raise BuildError(f"precision is given for {name!r}, but this bundle's components are {', '.join(names)}.")
        check_precision(value, name)
    return {name: check_precision(request.component_precision.get(name, request.precision), name) for name in names}


def load_fitting_vae(path: Path | None, model: HiMAR) -> AutoencoderKL | None:
    """Load a VAE and check that it is one for this model's tokens; ConfigError if it is not."""
    if path is None:
        return None
    vae = load_vae(path)
    require_fit(vae, model.config, str(path))
    return vae


def _selftest(model: HiMAR, vae: AutoencoderKL | None) -> dict[str, Any]:
    """A short guided run of two images through both phases, and one forward of each component."""
    config = model.config
    usual = config.default_sampling
    sampling = SamplingConfig(
        low_steps=min(2, config.low_positions),
        high_steps=min(SELFTEST_HIGH_STEPS, config.high_positions),
        low_guidance=_guided(usual.low_guidance),
        high_guidance=_guided(usual.high_guidance),
        low_diffusion_steps=SELFTEST_CHAIN,
        high_diffusion_steps=_affordable_chain(config),
    )
    labels = [0, config.classes - 1]
    return record(model, vae, labels, draws=PhiloxDraws(0), sampling=sampling, case=SELFTEST_CASE)


def _affordable_chain(config: ModelConfig) -> int:
    """Return the longest chain whose DiT head fits the self-test's FLOPs; short ones magnify rounding (see verify)."""
    rows, products = 4, 18 * config.dit_width**2 * config.dit_depth
    one_step = 2 * rows * config.high_positions * products
    return int(min(max(SELFTEST_FLOPS / (SELFTEST_HIGH_STEPS * one_step), 12), SELFTEST_CHAIN))


def _guided(scale: float) -> float:
    """Guidance doubles the rows, and engines have been wrong at some row counts alone: always test with it."""
    return scale if scale != 1 else 2.0


def _provenance(request: BuildRequest) -> dict[str, Any]:
    sources = {"checkpoint": request.checkpoint, "vae": request.vae}
    return {
        **{
            name: {"file": Path(path).name, "sha256": sha256(Path(path))}
            for name, path in sources.items()
            if path is not None
        },
        "weights": None if Path(request.checkpoint).suffix == ".safetensors" else request.weights or DEFAULT_WEIGHTS,
        "command": list(request.command),
        "versions": {
            "himar": version("himar"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "numpy": version("numpy"),
        },
    }
