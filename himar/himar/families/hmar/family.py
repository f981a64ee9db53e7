"""HMAR as a family: what tells its checkpoints, and how a model and its tokenizer are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from himar.images import in_chunks
from himar.loading.checkpoint_files import Weights
from himar_kernels import InputError
from himar_kernels.families.hmar import PhiloxDraws, SamplingConfig
from himar_kernels.families.hmar.sampling import choose_sampling

from .checkpoints import model_from, save_checkpoint
from .config import describes, read_config, resolve
from .model import HMAR, randomise
from .sampler import generate
from .tokenizer.files import load_tokenizer, save_tokenizer
from .tokenizer.network import Tokenizer
from .tokenizer.sizes import tokenizer_of


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

    def choose_sampling(
        self, model: HMAR, sampling: str | None, guidance: float | None, changes: Mapping[str, Any], holder: str
    ) -> SamplingConfig:
        """See ModelFamily.choose_sampling."""
        chosen = choose_sampling(model.config.sampling, sampling, {**changes, "guidance": guidance}, "model")
        model.config.check_sampling(chosen)
        return chosen

    def sampling_from_dict(self, model: HMAR, values: Mapping[str, Any]) -> SamplingConfig:
        """See ModelFamily.sampling_from_dict."""
        chosen = SamplingConfig.from_dict(values)
        model.config.check_sampling(chosen)
        return chosen

    def images(
        self,
        model: HMAR,
        vae: Tokenizer,
        labels: Sequence[int] | None,
        *,
        seed: int,
        sampling: SamplingConfig,
        first_index: int = 0,
        contexts: Tensor | None = None,
    ) -> NDArray[np.uint8]:
        """See ModelFamily.images; there are no models from text."""
        if labels is None or contexts is not None:
            raise InputError("contexts were given, but HMAR makes images of classes; give labels.")
        draws = PhiloxDraws(seed)

        def some(part: slice, first_index: int) -> Tensor:
            return generate(model, vae, labels[part], draws=draws, sampling=sampling, first_index=first_index)

        return in_chunks(some, len(labels), first_index=first_index)

    def load_vae(self, path: Path, model: HMAR) -> Tokenizer:
        """See ModelFamily.load_vae; here it is the multi-scale tokenizer."""
        return load_tokenizer(path, model.config)


FAMILY = HmarFamily()
