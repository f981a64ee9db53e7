"""HMAR as `verify` and `inspect` know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from himar_export.verify.compare import Comparison
from himar_export.verify.recording import Recording
from himar_kernels import InputError
from himar_kernels.families.hmar import load_recording, recorded_cases
from himar_kernels.families.hmar.sizes import NEXT_SCALE_TAIL, TRUNK
from himar_runtime import Bundle, Manifest, Networks, Pipeline
from himar_runtime.families.hmar.family import hmar_model

from .verify import replay_forwards, replay_run, replay_tokenizer, teacher_forced


class HmarChecks:
    """See `himar_export.families.checks.FamilyChecks`."""

    def load_recording(self, path: Path) -> dict[str, NDArray[Any]]:
        """See FamilyChecks.load_recording."""
        return load_recording(path)

    def require_same_model(self, bundle: Bundle, arrays: Recording) -> None:
        """See FamilyChecks.require_same_model."""
        model = hmar_model(bundle.manifest)
        side, channels = model.scales.side, model.latent_channels
        for name, array in arrays.items():
            found = array.shape
            case, _, what = name.rpartition("/")
            if f"{case}/image_u8" in arrays and arrays[f"{case}/image_u8"].shape[-1] != model.img_size:
                continue  # a tokenizer is recorded at several sizes
            if (what == "f" or what.startswith("f_hat")) and found[-3:] != (channels, side, side):
                raise InputError(
                    f"the recording is of another model: {name} has shape {found}, this bundle's latents are "
                    f"(any, {channels}, {side}, {side})."
                )
            if name.endswith("/logits") and found[-1] != model.vocab:
                raise InputError(
                    f"the recording is of another model: {name} has {found[-1]} codes, this bundle's model has "
                    f"{model.vocab}."
                )

    def verify(self, pipeline: Pipeline, networks: Networks, arrays: Recording, case: str | None) -> list[Comparison]:
        """See FamilyChecks.verify."""
        comparisons = [*replay_tokenizer(pipeline.bundle, networks, arrays)]
        comparisons += teacher_forced(pipeline.bundle, networks, arrays)
        for each in recorded_cases(arrays) if case is None else [case]:
            comparisons += replay_forwards(pipeline.bundle, networks, arrays, each)
            comparisons += replay_run(pipeline, arrays, each)
        return comparisons

    def advice(self, manifest: Manifest) -> str | None:
        """See FamilyChecks.advice."""
        return None

    def describe(self, manifest: Manifest) -> list[str]:
        """See FamilyChecks.describe."""
        model = hmar_model(manifest)
        sides = " ".join(map(str, model.patch_nums))
        networks = f"{TRUNK} of {model.base} blocks → {NEXT_SCALE_TAIL}"
        return [
            f"model      {model.classes} classes, {len(model.scales)} scales of sides {sides}, {model.vocab} codes, "
            f"images {model.img_size}×{model.img_size}",
            f"networks   width {model.width}, {networks}{' or masked_tail' if model.masked else ''} of {model.tail}",
        ]

    def settings(self, manifest: Manifest) -> dict[str, dict[str, Any]]:
        """See FamilyChecks.settings."""
        return {name: sampling.to_dict() for name, sampling in manifest.sampling.items()}


FAMILY = HmarChecks()
