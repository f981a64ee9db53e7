"""Hi-MAR as a family: what tells its checkpoints, and how a model and its VAE are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from himar.images import sample_images
from himar.loading.checkpoint_files import Weights
from himar.text import save_text_tower
from himar.vae.autoencoder import AutoencoderKL, require_fit
from himar.vae.layouts import load_vae
from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.sampling import choose_sampling, require_phase_low

from .checkpoints import ANCHOR, model_from, save_checkpoint
from .config import check_steps, read_config, resolve
from .joint import JointHiMAR
from .model import HiMAR, randomise


class HiMarFamily:
    """See `himar.family.ModelFamily`."""

    title = "Hi-MAR"
    anchor = ANCHOR

    def recognises(self, names: Collection[str]) -> bool:
        """See ModelFamily.recognises."""
        return self.anchor in names and ("class_emb.weight" in names or "text_proj.weight" in names)

    def model_from(self, read: Weights, path: Path, config: str | Path | Mapping[str, Any] | None) -> HiMAR:
        """See ModelFamily.model_from."""
        return model_from(read, path, config)

    def describes(self, keys: Collection[str]) -> bool:
        """See ModelFamily.describes."""
        return "cond_scale" in keys

    def random(self, config: str | Path, seed: int) -> tuple[HiMAR, None]:
        """See ModelFamily.random; a bundle without a VAE gives latents."""
        return randomise(HiMAR(resolve(read_config(config), {}, str(config))), seed), None

    def save(self, path: Path, model: nn.Module, dtype: torch.dtype) -> None:
        """See ModelFamily.save; a text tower that was trained with the model goes into the folder NAME-text."""
        assert isinstance(model, HiMAR)
        if isinstance(model, JointHiMAR):
            save_text_tower(model.tower, path.with_name(f"{path.stem}-text"))
            model = model.without_tower()
        save_checkpoint(model, path, dtype)

    def choose_sampling(
        self, model: HiMAR, sampling: str | None, guidance: float | None, changes: Mapping[str, Any], holder: str
    ) -> SamplingConfig:
        """See ModelFamily.choose_sampling."""
        chosen = choose_sampling(model.config.sampling, sampling, guidance, changes, "model")
        if model.config.single_scale:
            require_phase_low(changes, holder)
        check_steps(model.config, chosen)
        return chosen

    def sampling_from_dict(self, model: HiMAR, values: Mapping[str, Any]) -> SamplingConfig:
        """See ModelFamily.sampling_from_dict."""
        chosen = SamplingConfig.from_dict(values)
        check_steps(model.config, chosen)
        return chosen

    def images(
        self,
        model: HiMAR,
        vae: AutoencoderKL,
        labels: Sequence[int] | None,
        *,
        seed: int,
        sampling: SamplingConfig,
        first_index: int = 0,
        contexts: Tensor | None = None,
    ) -> NDArray[np.uint8]:
        """See ModelFamily.images."""
        draws = PhiloxDraws(seed)
        return sample_images(model, vae, labels, draws, sampling, first_index=first_index, contexts=contexts)

    def load_vae(self, path: Path, model: HiMAR) -> AutoencoderKL:
        """See ModelFamily.load_vae."""
        vae = load_vae(path)
        require_fit(vae, model.config, str(path))
        return vae


FAMILY = HiMarFamily()
