"""Chooses what the images of a benchmark show, the same on both sides and in each process; imports no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from himar_runtime import Pipeline, Result

SEED = 7

Shown = Sequence[int] | Sequence[str] | NDArray[np.float32]
"""Classes of images; of a model from text prompts, or contexts (B, K, W)."""


def what_is_shown(batch: int, classes: int, context_shape: Sequence[int] | None, prompts: bool = False) -> Shown:
    """Return all classes of a model in turn; of a model from text, contexts as large as a tower's last norm gives them.

    classes, context_shape: see `himar_runtime.families.family.ModelSizes`. prompts: these, in place of contexts.
    """
    if context_shape is None:
        return [i % classes for i in range(batch)]
    if prompts:
        return [f"a red three left of a blue seven, picture {i}" for i in range(batch)]
    return np.random.default_rng(SEED).standard_normal((batch, *context_shape), np.float32)


def generate(pipeline: Pipeline, images: Shown, sampling: Any, seed: int = SEED) -> Result:
    """Generate with a pipeline images that show what `what_is_shown` returned."""
    prompts = not isinstance(images, np.ndarray) and any(isinstance(each, str) for each in images)
    name = "prompts" if prompts else "contexts" if isinstance(images, np.ndarray) else "labels"
    given: dict[str, Any] = {name: images}
    return pipeline.generate(**given, seed=seed, sampling=sampling)
