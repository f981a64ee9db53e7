"""HMAR as export knows it: see each method's module for the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from himar.families.hmar.config import CONFIG_KEYS
from himar.families.hmar.model import HMAR
from himar.families.hmar.tokenizer.network import Tokenizer
from himar_export.families.checks import Arrays
from himar_export.graph.component import Component
from himar_export.graph.precision_choice import Precision
from himar_export.make.manifest import BundleWriter
from himar_kernels import ConfigError
from himar_kernels.families.hmar import PhiloxDraws, SamplingConfig
from himar_runtime import Manifest

from .components import components
from .record import record, record_tokenizer


class HmarFamily:
    """See `himar_export.families.family.ExportFamily`."""

    def manifest_keys(self, model: HMAR) -> tuple[dict[str, Any], str]:
        """See ExportFamily.manifest_keys."""
        values = model.config.to_dict()
        sampling = values.pop("sampling")
        return {"model": values, "sampling": sampling}, "3.0"

    def components(self, model: HMAR, vae: Tokenizer | None, max_batch: int, backend: str) -> tuple[Component, ...]:
        """See ExportFamily.components. Raises ConfigError without a tokenizer: the loop needs its codes."""
        return components(model, needed(vae), max_batch, backend)

    def held_modulations(self, model: HMAR, max_batch: int, precision: Precision) -> tuple[Component, ...]:
        """See ExportFamily.held_modulations: what modulates HMAR's blocks is computed once per image anyway."""
        return ()

    def add_held_setting(self, model: HMAR) -> None:
        """See ExportFamily.add_held_setting: no model has such components."""

    def editing(self, model: HMAR, vae: Tokenizer, max_batch: int, backend: str) -> tuple[Component, ...]:
        """See ExportFamily.editing: every bundle has the encoder."""
        return ()

    def record_editing(self, model: HMAR, vae: Tokenizer, selftest: Arrays) -> Arrays:
        """See ExportFamily.record_editing: the self-test has the encoder's latents."""
        return {}

    def annotate(self, writer: BundleWriter, model: HMAR, vae: Tokenizer | None) -> None:
        """Store the codebook, with which the loop turns codes into the latent."""
        book = needed(vae).codebook()
        arrays = {"embedding": book.embedding, "weights": book.weights, "biases": book.biases}
        writer.add_model_arrays("codebook", arrays)

    def config_of(self, manifest: Manifest) -> dict[str, Any]:
        """See ExportFamily.config_of."""
        sizes = {name: value for name, value in manifest.raw["model"].items() if name in CONFIG_KEYS}
        return {**sizes, "sampling": {name: settings.to_dict() for name, settings in manifest.sampling.items()}}

    def record(
        self,
        model: HMAR,
        vae: Tokenizer | None,
        labels: Sequence[int],
        *,
        seed: int,
        sampling: SamplingConfig,
        case: str,
    ) -> Arrays:
        """See ExportFamily.record. Raises ConfigError without a tokenizer: the loop needs its codes."""
        return record(model, needed(vae), labels, draws=PhiloxDraws(seed), sampling=sampling, case=case)

    def record_selftest(self, model: HMAR, vae: Tokenizer | None, case: str) -> Arrays:
        """Record a guided run of two images with the model's own schedule, and what the encoder makes of one."""
        sampling = model.config.default_sampling
        if not sampling.guidance:
            sampling = sampling.with_changes(guidance=1.5)
        labels = [0, model.config.classes - 1]
        arrays = record(model, needed(vae), labels, draws=PhiloxDraws(0), sampling=sampling, case=case)
        image = arrays[f"{case}/image_row0"][None]
        return {**arrays, **record_tokenizer(needed(vae), np.rint(255 * image).astype(np.uint8))}

    def calibration(self, model: HMAR) -> None:
        """See ExportFamily.calibration: inputs of every matmul are scaled per row."""


def needed(vae: Tokenizer | None) -> Tokenizer:
    """Return a model's tokenizer; ConfigError where there is none."""
    if vae is None:
        raise ConfigError("HMAR needs the tokenizer whose codes the model predicts; give it with --vae.")
    return vae


FAMILY = HmarFamily()
