"""HMAR as a family: what tells its checkpoints, and how a model and its tokenizer are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from himar.images import to_pixels
from himar.loading.checkpoint_files import Weights
from himar_kernels.families.hmar import PhiloxDraws
from himar_kernels.families.hmar.sampling import choose_sampling

from .checkpoints import model_from, save_checkpoint
from .config import describes, read_config, resolve
from .model import HMAR, randomise
from .sampler import generate
from .tokenizer import Tokenizer
from .tokenizer_files import load_tokenizer, save_tokenizer
from .tokenizer_sizes import tokenizer_of


class HmarFamily:
    """See `himar.family.ModelFamily`."""

    title = "HMAR"
    anchor = "pos_1LC"

    def recognises(self, names: Collection[str]) -> bool:
        """See ModelFamily.recognises."""
        return self.anchor in names

    def model_from(self, read: Weights, path: Path, config: str | Path | Mapping[str, Any] | None) -> HMAR:
        """See ModelFamily.model_from."""
        return model_from(read, path, config)

    def describes(self, keys: Collection[str]) -> bool:
        """See ModelFamily.describes."""
        return describes(keys)

    def random(self, config: str | Path, seed: int) -> tuple[HMAR, Tokenizer]:
        """See ModelFamily.random; the tokenizer has the released one's depth and the widths that the model asks for."""
        sizes = resolve(read_config(config), {}, str(config))
        model = randomise(HMAR(sizes), seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokenizer = Tokenizer(tokenizer_of(sizes))
            torch.nn.init.normal_(tokenizer.quantize.embedding.weight)
        return model, tokenizer

    def save(self, path: Path, model: nn.Module, dtype: torch.dtype) -> None:
        """See ModelFamily.save."""
        if isinstance(model, Tokenizer):
            save_tokenizer(model, path, dtype)
        else:
            assert isinstance(model, HMAR)
            save_checkpoint(model, path, dtype)

    def sample(
        self,
        model: HMAR,
        vae: Tokenizer,
        labels: Sequence[int],
        *,
        seed: int,
        sampling: str | None,
        guidance: float | None,
        changes: Mapping[str, Any],
    ) -> NDArray[np.uint8]:
        """See ModelFamily.sample."""
        given = {**changes, "guidance": guidance}
        chosen = choose_sampling(model.config.sampling, sampling, given, "model")
        images = generate(model, vae, labels, draws=PhiloxDraws(seed), sampling=chosen)
        return to_pixels(images)

    def load_vae(self, path: Path, model: HMAR) -> Tokenizer:
        """See ModelFamily.load_vae; here it is the multi-scale tokenizer."""
        return load_tokenizer(path, model.config)


FAMILY = HmarFamily()
