"""Opens the text tower and the tokenizer that a bundle takes prompts with, and records what the tower gives."""

from __future__ import annotations

import logging
from pathlib import Path

from himar.family import FamilyModel
from himar.text.encoder import TextEncoder
from himar_kernels import ConfigError
from himar_kernels.shared.console import NOTICES

from ..families.checks import Arrays

_RECORDED = ("", "a red three left of a blue seven")


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
    if foreign := text.foreign_to(model):
        NOTICES.log(logging.INFO, f"warning: {foreign}")
    return text


def record_text(text: TextEncoder) -> Arrays:
    """Return what a self-test holds of a tower: text/tokens int64 (n, K) and text/context float32 (n, K, W)."""
    tokens, _ = text.tokenizer.ids(_RECORDED)
    return {"text/tokens": tokens, "text/context": text.contexts(tokens).numpy()}
