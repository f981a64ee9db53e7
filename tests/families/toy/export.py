"""The toy family in export: two components, and a self-test recorded from PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from himar_export.families.checks import Arrays
from himar_export.graph.component import Component
from himar_export.graph.precision_choice import Precision
from himar_export.make.manifest import BundleWriter
from himar_runtime import Manifest, TensorSpec

from .model import CHANNELS, SCALE, SIDE, Toy


def samples(rows: int) -> dict[str, Tensor]:
    """Inputs of the puller."""
    generator = torch.Generator().manual_seed(rows)
    return {
        "class_row": torch.arange(rows) % 2,
        "latent": torch.randn(rows, CHANNELS, SIDE, SIDE, generator=generator),
    }


class ToyFamily:
    """See himar_export.families.family.ExportFamily."""

    def manifest_keys(self, model: Toy) -> tuple[dict[str, Any], str]:
        """See ExportFamily."""
        return {"model": dict(model.config), "sampling": {"default": {"steps": 3, "noise": 0.1}}}, "3.0"

    def held_modulations(self, model: Toy, max_batch: int, precision: Precision) -> tuple[Component, ...]:
        return ()

    def add_held_setting(self, model: Toy) -> None:
        """See ExportFamily.add_held_setting: no model has such components."""

    def editing(self, model: Toy, vae: Any, max_batch: int, backend: str) -> tuple[Component, ...]:
        """See ExportFamily."""
        return ()

    def record_editing(self, model: Toy, vae: Any, selftest: Arrays) -> Arrays:
        """See ExportFamily."""
        return {}

    def components(self, model: Toy, vae: nn.Module | None, max_batch: int, backend: str) -> tuple[Component, ...]:
        """See ExportFamily."""
        latent = ("rows", CHANNELS, SIDE, SIDE)
        rows = {"rows": (1, max_batch, max_batch)}
        return (
            Component(
                "puller",
                (TensorSpec("class_row", "int64", ("rows",)), TensorSpec("latent", "float32", latent)),
                (TensorSpec("pulled", "float32", latent),),
                rows,
                lambda dtype: model.puller,
                (),
                samples,
            ),
            Component(
                "vae_decoder",
                (TensorSpec("latent", "float32", latent),),
                (TensorSpec("image", "float32", ("rows", 3, SIDE * SCALE, SIDE * SCALE)),),
                rows,
                lambda dtype: model.decoder,
                (),
                lambda rows: {"latent": samples(rows)["latent"]},
            ),
        )

    def annotate(self, writer: BundleWriter, model: Toy, vae: nn.Module | None) -> None:
        """See ExportFamily."""

    def config_of(self, manifest: Manifest) -> dict[str, Any]:
        """See ExportFamily."""
        return {"classes": manifest.model.classes}

    def record(self, model: Toy, vae: Any, labels: Sequence[int], **settings: Any) -> Arrays:
        """See ExportFamily; a toy's runs are all alike."""
        return self.record_selftest(model, vae, settings["case"])

    def record_selftest(self, model: Toy, vae: nn.Module | None, case: str) -> Arrays:
        """See ExportFamily."""
        inputs = samples(2)
        pulled = model.puller(**inputs)
        arrays = {**inputs, "pulled": pulled, "image": model.decoder(pulled)}
        return {f"{case}/{name}": tensor.numpy() for name, tensor in arrays.items()}

    def calibration(self, model: Toy) -> None:
        """See ExportFamily."""


FAMILY = ToyFamily()
