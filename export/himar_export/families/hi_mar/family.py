"""Hi-MAR as export knows it: see each method's module for the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.model import HiMAR
from himar.vae.autoencoder import AutoencoderKL
from himar_export.families.checks import Arrays
from himar_export.families.family import Calibration
from himar_export.graph.component import Component
from himar_export.graph.precision_choice import Precision
from himar_export.make.manifest import BundleWriter
from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig
from himar_runtime import Manifest

from .components import components, editing, held_modulations
from .phases import condition_embedding, model_info, phase_head
from .record import record, record_editing, record_selftest


class HiMarFamily:
    """See `himar_export.families.family.ExportFamily`."""

    def manifest_keys(self, model: HiMAR) -> tuple[dict[str, Any], str]:
        """See ExportFamily.manifest_keys. A reader of 1.0 runs the released phases alone; where it does, it may."""
        config = {name: value for name, value in model.config.to_dict().items() if name != "sampling"}
        released = {"mlp_head", "dit_head"} <= set(model_info(model.config).networks)
        own = "1.0" if released else "1.1"
        base = own if model.config.context_shape is None else "4.0"
        settings, schema = sampling_keys(model.config.sampling, base)
        return {**settings, "model": config}, schema

    def components(
        self, model: HiMAR, vae: AutoencoderKL | None, max_batch: int, backend: str
    ) -> tuple[Component, ...]:
        """See ExportFamily.components."""
        return components(model, vae, max_batch, backend)

    def held_modulations(self, model: HiMAR, max_batch: int, precision: Precision) -> tuple[Component, ...]:
        """See ExportFamily.held_modulations."""
        return held_modulations(model, max_batch, precision)

    def add_held_setting(self, model: HiMAR) -> None:
        """See ExportFamily.add_held_setting: "forecast" with H = 2, or the default where there is none."""
        named = model.config.sampling
        start = named.get("forecast", model.config.default_sampling)
        model.config = replace(model.config, sampling={**named, "held": replace(start, modulation_interval=2)})

    def editing(self, model: HiMAR, vae: AutoencoderKL, max_batch: int, backend: str) -> tuple[Component, ...]:
        """See ExportFamily.editing."""
        return editing(model, vae, max_batch, backend)

    def record_editing(self, model: HiMAR, vae: AutoencoderKL, selftest: Arrays) -> Arrays:
        """See ExportFamily.record_editing."""
        return record_editing(model, vae, selftest)

    def annotate(self, writer: BundleWriter, model: HiMAR, vae: AutoencoderKL | None) -> None:
        """Note where the matmuls that embed z stand: a recording holds raw z, and the heads take it embedded.

        Keep the context of the empty prompt, of which unconditional rows are.
        """
        for phase in model_info(model.config).phases:
            writer.add_layer(phase.head, "condition_embedding", condition_embedding(phase_head(model, phase.name)))
        if model.config.context_shape is not None:
            writer.add_model_floats("empty_context", "empty-context.bin", model.empty_context[0].cpu().numpy())

    def config_of(self, manifest: Manifest) -> dict[str, Any]:
        """See ExportFamily.config_of."""
        known = {field.name for field in fields(ModelConfig)}
        sizes = {name: value for name, value in manifest.raw["model"].items() if name in known}
        return {**sizes, "sampling": {name: settings.to_dict() for name, settings in manifest.sampling.items()}}

    def record(
        self,
        model: HiMAR,
        vae: AutoencoderKL | None,
        shown: Sequence[int] | NDArray[np.float32],
        *,
        seed: int,
        sampling: SamplingConfig,
        case: str,
    ) -> Arrays:
        """See ExportFamily.record."""
        return record(model, vae, shown, draws=PhiloxDraws(seed), sampling=sampling, case=case)

    def record_selftest(self, model: HiMAR, vae: AutoencoderKL | None, case: str) -> Arrays:
        """See ExportFamily.record_selftest."""
        return record_selftest(model, vae, case)

    def calibration(self, model: HiMAR) -> Calibration | None:
        """See ExportFamily.calibration. What a model from text is told by its prompts cannot be made up here.

        An MLP head takes few rows at once, whose own scales cost it next to nothing in int8.
        """
        if model.config.context_shape is not None:
            return None
        info = model_info(model.config)
        heads = {kind: tuple(each.head for each in info.phases if each.kind == kind) for kind in ("dit", "mlp")}
        edits = {} if info.edit_transformer is None else {info.edit_transformer: info.phase("high").transformer}
        labels = np.linspace(0, model.config.classes - 1, CALIBRATION_IMAGES).round().astype(int).tolist()
        return Calibration(
            components=(*(phase.transformer for phase in info.phases), *heads["dit"]),
            only_fp8=heads["mlp"],
            twins=edits,
            request={"labels": labels, "sampling": calibration_sampling(model)},
            images=CALIBRATION_IMAGES,
        )


FAMILY = HiMarFamily()

CALIBRATION_IMAGES = 4
_CALIBRATION_STEPS, _CALIBRATION_CHAIN = 4, 25
_BOTH_HALVES = 2.0
"""Guidance in place of a default of 1, with which unconditional rows would not be run."""


def calibration_sampling(model: HiMAR) -> SamplingConfig:
    """Return the default settings in few steps, with guidance, so that unconditional rows are observed too."""
    default = next(iter(model.config.sampling.values()))
    info = model_info(model.config)
    return default.with_changes(
        low_guidance=default.low_guidance if default.low_guidance != 1 else _BOTH_HALVES,
        high_guidance=default.high_guidance if default.high_guidance != 1 else _BOTH_HALVES,
        low_steps=min(_CALIBRATION_STEPS, max(info.low_positions, 1)),
        high_steps=min(_CALIBRATION_STEPS // 2, info.high_positions),
        low_diffusion_steps=_CALIBRATION_CHAIN,
        high_diffusion_steps=_CALIBRATION_CHAIN,
    )


def sampling_keys(settings: Mapping[str, SamplingConfig], base: str = "1.0") -> tuple[dict[str, Any], str]:
    """Return the manifest's keys of named settings, the default first, and the least schema that has them.

    base: the least schema of the bundle without them. Readers before solvers, and before forecasts, get what they can
    run: see himar_runtime.bundle.manifest.
    """
    groups: dict[str, dict[str, Any]] = {"sampling": {}, "solver_sampling": {}, "forecast_sampling": {}}
    default = next(iter(settings.values()))
    for name, each in settings.items():
        group = "sampling"
        if each.needs_evaluations and not default.needs_evaluations:
            group = "forecast_sampling"
        elif each.needs_solvers and not (default.needs_solvers or default.needs_evaluations):
            group = "solver_sampling"
        groups[group][name] = each.to_dict()
    schema = base
    if groups["solver_sampling"]:
        schema = max(schema, "1.2")
    if default.needs_solvers:
        schema = max(schema, "2.0")
    if groups["forecast_sampling"]:
        schema = max(schema, FORECASTS_SINCE[schema.partition(".")[0]])
    if default.needs_evaluations:
        schema = "5.0"
    return {key: values for key, values in groups.items() if values}, schema


FORECASTS_SINCE = {"1": "1.3", "2": "2.1", "4": "4.1"}
"""First minor version of each major one with forecast_sampling."""
