"""The toy family in `verify` and `inspect`."""

from __future__ import annotations

from typing import Any

from himar_export.verify.compare import Comparison, compare
from himar_export.verify.limits import COMPONENT_LIMIT
from himar_export.verify.recording import Recording
from himar_runtime import Bundle, Manifest, Networks, Pipeline


class ToyChecks:
    """See himar_export.families.checks.FamilyChecks."""

    def require_same_model(self, bundle: Bundle, arrays: Recording) -> None:
        """See FamilyChecks."""

    def verify(self, pipeline: Pipeline, networks: Networks, arrays: Recording, case: str | None) -> list[Comparison]:
        """See FamilyChecks."""
        case = case or "selftest"
        inputs = {name: arrays[f"{case}/{name}"] for name in ("class_row", "latent")}
        pulled = networks["puller"].run(inputs)["pulled"]
        image = networks["vae_decoder"].run({"latent": arrays[f"{case}/pulled"]})["image"]
        return [
            compare("puller: pulled", pulled, arrays[f"{case}/pulled"], COMPONENT_LIMIT["fp32"]),
            compare("vae_decoder: image", image, arrays[f"{case}/image"], COMPONENT_LIMIT["fp32"]),
        ]

    def advice(self, manifest: Manifest) -> str | None:
        """See FamilyChecks."""
        return None

    def describe(self, manifest: Manifest) -> list[str]:
        """See FamilyChecks."""
        return [f"model      toy, {manifest.model.classes} classes"]

    def settings(self, manifest: Manifest) -> dict[str, dict[str, Any]]:
        """See FamilyChecks."""
        return {name: each.to_dict() for name, each in manifest.sampling.items()}


FAMILY = ToyChecks()
