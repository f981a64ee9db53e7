"""Runs a text tower eagerly, before the eager sampler of any family that draws from text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from himar.text import TextTower, encode
from himar.text.encoder import TextEncoder
from himar_kernels.families.registry import TEXT_ENCODER

from .eager import Guard, hold_cast, shared_copy
from .shown import Shown
from .time_breakdown import Clock


def eager_tower(tower: TextTower, precisions: Mapping[str, str], clock: Clock | None = None) -> TextTower:
    """Return a copy of a tower that shares its weights and runs in the precision of the component `text_encoder`.

    Its calls are added to the clock's.
    """
    guard = Guard(tower.final_layer_norm.weight.device.type, precisions, clock=clock)
    copied = shared_copy(tower)
    hold_cast(copied, precisions.get(TEXT_ENCODER, "fp32"))
    guard.replace(copied, "forward", TEXT_ENCODER)
    return copied


def encoding(
    text: TextEncoder | None, precisions: Mapping[str, str], clock: Clock | None = None
) -> Callable[[Shown], Any]:
    """Return what makes contexts (B, K, W) of prompts with the eager tower; other images show what they did.

    text: None where no images are made from prompts.
    """
    if text is None:
        return lambda images: images
    tower, tokenizer = eager_tower(text.tower, precisions, clock), text.tokenizer

    def encoded(images: Shown) -> Any:
        if isinstance(images, np.ndarray):
            return images
        return encode(tower, tokenizer.ids([str(each) for each in images])[0])

    return encoded


def text_call(tower: TextTower) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what runs the tower on the inputs of the component `text_encoder`."""
    return lambda inputs: {"context": tower(inputs["tokens"])}
