"""Turns texts into contexts: a tokenizer and a text tower of one folder, checked against each other and a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import ConfigError
from himar_kernels.text import Tokenizer

from ..device import full_precision
from ..loading.checkpoint_files import weights_sha256
from .files import load_text_tower
from .tower import TextTower, encode

if TYPE_CHECKING:
    from ..families.hi_mar.config import ModelConfig

_AT_ONCE = 64
_FOREIGN = 0.05
"""Relative distance of two contexts of the empty prompt beyond which rounding, in half precision too, is not why."""


@dataclass(frozen=True)
class TextEncoder:
    """A text tower and its tokenizer; folder: where both came from; sha256: of the weights and the vocabulary."""

    tower: TextTower
    tokenizer: Tokenizer
    folder: Path
    sha256: str

    @classmethod
    def open(cls, folder: Path, device: torch.device | None = None) -> TextEncoder:
        """Load both from a folder, as `load_text_tower` and `Tokenizer.open` do, and raise what they raise.

        Raises ConfigError when they are not of one model: another number of tokens, or rows of another length.
        """
        tower, tokenizer = load_text_tower(folder), Tokenizer.open(folder)
        require_tokenizer(tokenizer, tower, folder)
        digest = hashlib.sha256(weights_sha256(folder).encode())
        vocabulary = tokenizer.vocabulary
        digest.update(repr((vocabulary.merges, vocabulary.padding, vocabulary.repairs_text)).encode())
        return cls(tower if device is None else tower.to(device), tokenizer, folder, digest.hexdigest())

    @property
    def shape(self) -> tuple[int, int]:
        """(K, W) of a context."""
        return self.tower.config.positions, self.tower.config.width

    def require_fit(self, config: ModelConfig) -> None:
        """Raise ConfigError unless contexts are what a model takes."""
        if not config.from_text:
            raise ConfigError(f"{self.folder} is a text tower, but this model makes images of classes; leave it out.")
        wanted = (config.buffer, config.context_width)
        if self.shape != wanted:
            raise ConfigError(
                f"the text tower of {self.folder} gives {self.shape[0]} rows of {self.shape[1]}, but this model takes "
                f"{wanted[0]} of {wanted[1]}; give the tower that it was trained with."
            )

    def foreign_to(self, model: object) -> str | None:
        """Return a sentence where a model that fits carries another context of the empty prompt, else None.

        It was trained with another tower then. A model without such a context tells nothing.
        """
        own = getattr(model, "empty_context", None)
        if not isinstance(own, Tensor):
            return None
        apart, size = self.encode([""])[0] - own.cpu(), own.cpu().norm()
        share = float(apart.norm() / size) if size > 0 else float("inf")
        if share <= _FOREIGN:
            return None
        return (
            f"{self.folder} gives the empty prompt a context {share:.0%} away from the model's own; the model was "
            f"trained with another tower or another padding, and prompts may mean nothing to it."
        )

    def contexts(self, ids: NDArray[np.int64]) -> Tensor:
        """Return the contexts (n, K, W) of rows of ids, float32 on the CPU."""
        with full_precision():
            parts = [encode(self.tower, ids[at : at + _AT_ONCE]).cpu() for at in range(0, len(ids), _AT_ONCE)]
        return torch.cat(parts)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Return the contexts (n, K, W) of texts and the indices of those cut. Raises InputError as Tokenizer.ids."""
        ids, cut = self.tokenizer.ids(texts)
        return self.contexts(ids), cut


def require_tokenizer(tokenizer: Tokenizer, tower: TextTower, folder: Path) -> None:
    """Raise ConfigError unless a folder's tokenizer has the tokens and the length of rows of its text tower."""
    tokens = tokenizer.end + 1
    if tokens != tower.config.vocabulary:
        raise ConfigError(
            f"the tokenizer of {folder} has {tokens} tokens and its text tower {tower.config.vocabulary}; take both "
            f"from one model."
        )
    if tokenizer.length != tower.config.positions:
        raise ConfigError(
            f"the tokenizer of {folder} makes rows of {tokenizer.length} tokens and its text tower takes "
            f"{tower.config.positions}; take both from one model."
        )
