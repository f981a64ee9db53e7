"""Hi-MAR as `verify` and `inspect` know it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from himar_export.verify.compare import Comparison
from himar_export.verify.recording import Recording
from himar_kernels.families.hi_mar import SamplingConfig, load_recording, phase_chains, recorded_cases
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_runtime import Bundle, Manifest, Networks, Pipeline
from himar_runtime.families.hi_mar.family import hi_mar_model

from .recordings import require_same_model
from .verify import replay_components, replay_run

FP8_GAIN = 100.0
"""The same for fp8, of whose chains solvers' alone, which magnify no rounding, were seen to keep it (docs/fp8.md)."""

INT8_GAIN = 400.0
"""Gain of a chain's first step (Chain.first_step_gain) up to which int8 was seen to keep quality (docs/int8.md)."""


class HiMarChecks:
    """See `himar_export.families.checks.FamilyChecks`."""

    def load_recording(self, path: Path) -> dict[str, NDArray[Any]]:
        """See FamilyChecks.load_recording."""
        return load_recording(path)

    def require_same_model(self, bundle: Bundle, arrays: Recording) -> None:
        """See FamilyChecks.require_same_model."""
        require_same_model(hi_mar_model(bundle.manifest), arrays)

    def verify(self, pipeline: Pipeline, networks: Networks, arrays: Recording, case: str | None) -> list[Comparison]:
        """See FamilyChecks.verify."""
        comparisons = list(replay_components(pipeline.bundle, networks, arrays))
        for each in recorded_cases(arrays) if case is None else [case]:
            comparisons += replay_run(pipeline, arrays, each)
        return comparisons

    def advice(self, manifest: Manifest) -> str | None:
        """See FamilyChecks.advice."""
        said = [_advice(manifest, kind) for kind in ("int8", "fp8")]
        return " ".join(each for each in said if each is not None) or None

    def describe(self, manifest: Manifest) -> list[str]:
        """See FamilyChecks.describe."""
        model = hi_mar_model(manifest)
        return [
            f"model      {_shown(model)}, {_tokens(model)}, images {model.img_size}×{model.img_size}, "
            f"width {model.width}",
            *(f"phase {phase.name:4} {phase.transformer} → {_left(phase)}{phase.head}" for phase in model.phases),
        ]

    def settings(self, manifest: Manifest) -> dict[str, dict[str, Any]]:
        """See FamilyChecks.settings; those of phase low say nothing of a single scale, unused ones nothing at all."""
        single, usual = hi_mar_model(manifest).single_scale, asdict(SamplingConfig())
        early = SamplingConfig().to_dict()
        shown = [
            key
            for key in usual
            if not (single and key.startswith("low_"))
            and (key in early or any(getattr(each, key) != usual[key] for each in manifest.sampling.values()))
        ]
        return {
            name: {key: _in_words(getattr(sampling, key)) for key in shown}
            for name, sampling in manifest.sampling.items()
        }


FAMILY = HiMarChecks()


def int8_advice(manifest: Manifest) -> str | None:
    """Say which of a bundle's sampling settings go down a chain too short for its heads in int8; None: none does."""
    return _advice(manifest, "int8")


def _advice(manifest: Manifest, kind: Literal["int8", "fp8"]) -> str | None:
    """Say which settings are too short for heads of this kind: a chain's first step magnifies a head's rounding."""
    most = INT8_GAIN if kind == "int8" else FP8_GAIN
    short = []
    for name, sampling in manifest.sampling.items():
        chains = phase_chains(sampling)
        for phase in hi_mar_model(manifest).phases:
            rounded = manifest.components[phase.head].precision == kind
            gain = max(chain.first_step_gain for chain in chains[phase.name])
            if rounded and gain > most and name not in short:
                short.append(name)
    if not short:
        return None
    if kind == "fp8":
        return (
            f"fp8 is coarse for the diffusion chains of {', '.join(repr(name) for name in short)}: take a solver such "
            f"as dpm++ (docs/fp8.md)."
        )
    return (
        f"int8 is coarse for the diffusion chains of {', '.join(repr(name) for name in short)}: take at least 100 "
        f"diffusion steps, or a solver such as dpm++ (docs/int8.md)."
    )


def _in_words(value: Any) -> Any:
    """A list of a value for each step as people write it; all else as it is."""
    return (", ".join(f"{each:g}" for each in value) or "-") if isinstance(value, tuple) else value


def _shown(model: ModelInfo) -> str:
    if model.context_shape is None:
        return f"{model.classes} classes"
    return f"from text, contexts of {model.buffer} rows of {model.context_width}"


def _tokens(model: ModelInfo) -> str:
    if model.single_scale:
        return f"{model.grid}×{model.grid} tokens of a single scale"
    pivots = "low tokens (the pivots)" if model.pivots == "visual" else "low"
    return f"{model.cond_scale}×{model.cond_scale} {pivots} and {model.grid}×{model.grid} high tokens"


def _left(phase: PhaseInfo) -> str:
    return "pivots, " if phase.leaves_pivots else ""
