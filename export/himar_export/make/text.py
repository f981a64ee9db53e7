"""Opens the text tower and the tokenizer that a bundle takes prompts with, and records what the tower gives."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from himar.family import FamilyModel
from himar.text.encoder import TextEncoder
from himar_kernels import ConfigError
from himar_kernels.shared.console import NOTICES

from ..families.checks import Arrays

_RECORDED = ("", "a red three left of a blue seven")
_FOREIGN = 0.05
"""Relative distance of two contexts of the empty prompt beyond which rounding, in half precision too, is not why."""


def load_fitting_text(folder: Path | None, model: FamilyModel) -> TextEncoder | None:
    """Load the tower and the tokenizer of a folder, and check that they give what the model takes.

    A notice says where the tower's context of the empty prompt is not the model's own: it was trained with another.
    Raises CheckpointError where the folder is none, ConfigError where it is not for this model.
    """
    if folder is None:
        return None
    if not getattr(model.config, "from_text", False):
        raise ConfigError(f"{folder} is a text tower, but this model makes images of classes; leave --text out.")
    text = TextEncoder.open(folder)
    text.require_fit(model.config)
    own = getattr(model, "empty_context", None)
    if isinstance(own, torch.Tensor):
        apart, size = text.encode([""])[0] - own.cpu(), own.cpu().norm()
        share = float(apart.norm() / size) if size > 0 else float("inf")
        if share > _FOREIGN:
            NOTICES.log(
                logging.INFO,
                f"warning: {folder} gives the empty prompt a context {share:.0%} away from the model's own; the model "
                f"was trained with another tower or another padding, and prompts may mean nothing to it.",
            )
    return text


def record_text(text: TextEncoder) -> Arrays:
    """Return what a self-test holds of a tower: text/tokens int64 (n, K) and text/context float32 (n, K, W)."""
    tokens, _ = text.tokenizer.ids(_RECORDED)
    return {"text/tokens": tokens, "text/context": text.contexts(tokens).numpy()}
