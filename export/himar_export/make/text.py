"""Opens the text tower and the tokenizer that a bundle takes prompts with, and records what the tower gives."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from himar.family import FamilyModel
from himar.text import TextTower, encode, load_text_tower
from himar_kernels import ConfigError
from himar_kernels.shared.console import NOTICES
from himar_kernels.text import Tokenizer

from ..families.checks import Arrays
from ..graph.component import Component
from ..graph.text_encoder import text_encoder

_RECORDED = ("", "a red three left of a blue seven")
_FOREIGN = 0.05
"""Relative distance of two towers' contexts of the empty prompt beyond which they are told apart from rounding."""


@dataclass(frozen=True)
class PromptParts:
    """What a bundle needs to take prompts."""

    tower: TextTower
    tokenizer: Tokenizer

    def component(self, max_batch: int, backend: str) -> Component:
        """Return the component text_encoder."""
        return text_encoder(self.tower, max_batch, backend)

    def recording(self) -> Arrays:
        """Return what the self-test holds of the tower: text/tokens (n, K) and text/context (n, K, W)."""
        tokens, _ = self.tokenizer.ids(_RECORDED)
        return {"text/tokens": tokens, "text/context": encode(self.tower, tokens).numpy()}


def load_fitting_text(folder: Path | None, model: FamilyModel) -> PromptParts | None:
    """Load the tower and the tokenizer of a folder, and check that they give what the model takes.

    A tower whose context of the empty prompt is not the model's own is another one than the model was trained with,
    which a notice says. Raises CheckpointError where the folder is none, ConfigError where it is not for this model.
    """
    if folder is None:
        return None
    shape = getattr(model.config, "context_shape", None)
    if shape is None:
        raise ConfigError("this model draws classes and takes no prompts; leave --text out.")
    tower, tokenizer = load_text_tower(folder), Tokenizer.open(folder)
    rows, width = shape
    for name, found, wanted in (
        ("a context's width", tower.config.width, width),
        ("a context's rows", tower.config.positions, rows),
        ("tokens of a prompt", tokenizer.length, rows),
    ):
        if found != wanted:
            raise ConfigError(
                f"{folder} has {found} as {name}, and the model {wanted}; give the tower of its training."
            )
    if tokenizer.end >= tower.config.vocabulary:
        raise ConfigError(
            f"{folder}: the tokenizer has {tokenizer.end + 1} tokens and the tower {tower.config.vocabulary}; take "
            f"both from one model."
        )
    own = getattr(model, "empty_context", None)
    if isinstance(own, torch.Tensor):
        apart = encode(tower, tokenizer.ids([""])[0]) - own.cpu()
        share = float(apart.norm() / own.cpu().norm().clamp_min(1e-12))
        if share > _FOREIGN:
            NOTICES.log(
                logging.INFO,
                f"warning: {folder} gives the empty prompt a context {share:.0%} away from the model's own; the model "
                f"was trained with another tower or another padding, and prompts may mean nothing to it.",
            )
    return PromptParts(tower, tokenizer)
