"""HMAR as a family: what tells its checkpoints, and how a model and its tokenizer are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from himar.loading.checkpoint_files import Weights

from .checkpoints import model_from
from .model import HMAR
from .tokenizer import Tokenizer
from .tokenizer_files import load_tokenizer


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

    def load_vae(self, path: Path, model: HMAR) -> Tokenizer:
        """See ModelFamily.load_vae; here it is the multi-scale tokenizer."""
        return load_tokenizer(path, model.config)


FAMILY = HmarFamily()
