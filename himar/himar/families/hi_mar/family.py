"""Hi-MAR as a family: what tells its checkpoints, and how a model and its VAE are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from himar.loading.checkpoint_files import Weights
from himar.vae.autoencoder import AutoencoderKL, require_fit
from himar.vae.layouts import load_vae

from .checkpoints import model_from
from .model import HiMAR


class HiMarFamily:
    """See `himar.family.ModelFamily`."""

    title = "Hi-MAR"
    anchor = "class_emb.weight"

    def recognises(self, names: Collection[str]) -> bool:
        """See ModelFamily.recognises."""
        return {self.anchor, "z_proj.weight"} <= set(names)

    def model_from(self, read: Weights, path: Path, config: str | Path | Mapping[str, Any] | None) -> HiMAR:
        """See ModelFamily.model_from."""
        return model_from(read, path, config)

    def load_vae(self, path: Path, model: HiMAR) -> AutoencoderKL:
        """See ModelFamily.load_vae."""
        vae = load_vae(path)
        require_fit(vae, model.config, str(path))
        return vae


FAMILY = HiMarFamily()
