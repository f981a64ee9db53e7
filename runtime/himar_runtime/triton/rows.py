"""Reads a request's tensors: every row is an image with a seed, an index and settings of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError, PhiloxDraws, check_labels
from himar_kernels.families.registry import TEXT_ENCODER
from himar_kernels.text.tokenizer import check_prompts

from ..bundle.manifest import Manifest
from ..families.family import Sampling, runtime_family
from ..request import image_indices

LABEL, PROMPT, SEED, INDEX, SAMPLING, GUIDANCE, PARTIAL_IMAGES = (
    "label", "prompt", "seed", "index", "sampling", "guidance", "partial_images",
)  # fmt: skip
MOST_PARTIAL_IMAGES = 3
_DRAWN_SEED_BITS = 53  # as himar-serve draws: exact as a double


@dataclass(frozen=True)
class Row:
    """An image that is asked for: a class or a text, the other is None; partial_images: unfinished ones before it."""

    label: int | None
    prompt: str | None
    seed: int
    index: int
    sampling: Sampling
    partial_images: int = 0


def shown_input(manifest: Manifest) -> str:
    """Return the input that says what an image shows; InputError for a bundle that takes neither classes nor texts."""
    if manifest.model.context_shape is None:
        return LABEL
    if TEXT_ENCODER not in manifest.components:
        raise InputError(f"this bundle has no {TEXT_ENCODER}, so it takes no prompts; use one built with --text.")
    return PROMPT


def read_rows(tensors: Mapping[str, NDArray[Any]], manifest: Manifest) -> list[Row]:
    """Return the images that a request asks for.

    tensors: (B, 1) each, by the inputs' names, those that were left out missing. Without seeds one is drawn for all
    rows; without indices they count from 0. Raises InputError for a value that is wrong.
    """
    shown = shown_input(manifest)
    if shown not in tensors:
        raise InputError(f"the input {shown} is missing; give one for each image.")
    count = tensors[shown].size
    rows = {name: _column(name, values, count, shown) for name, values in tensors.items()}
    seed = secrets.randbits(_DRAWN_SEED_BITS)
    seeds = [PhiloxDraws(each).seed for each in rows.get(SEED, [seed] * count)]
    indices = [int(image_indices(1, each)[0]) for each in rows.get(INDEX, range(count))]
    partials = rows.get(PARTIAL_IMAGES, [0] * count)
    for each in partials:
        if not 0 <= each <= MOST_PARTIAL_IMAGES:
            raise InputError(f"{PARTIAL_IMAGES} is {each}; it must be 0 to {MOST_PARTIAL_IMAGES}.")
    if count > 1 and any(partials):
        raise InputError(f"{PARTIAL_IMAGES} is given for {count} images; ask for one image in each request.")
    settings = _settings(rows, count, manifest)
    labels: Sequence[int | None] = [None] * count
    prompts: Sequence[str | None] = [None] * count
    if shown == LABEL:
        labels = check_labels(rows[LABEL], manifest.model.classes).tolist()
    else:
        check_prompts(rows[PROMPT])
        prompts = rows[PROMPT]
    return [Row(*values) for values in zip(labels, prompts, seeds, indices, settings, partials, strict=True)]


def _settings(rows: Mapping[str, list[Any]], count: int, manifest: Manifest) -> list[Sampling]:
    choose: Callable[..., Sampling] = runtime_family(manifest.family).choose_sampling
    asked = list(zip(rows.get(SAMPLING, [None] * count), rows.get(GUIDANCE, [None] * count), strict=True))
    chosen = {each: choose(manifest.model, manifest.sampling, each[0], each[1], {}) for each in dict.fromkeys(asked)}
    return [chosen[each] for each in asked]


def _column(name: str, values: NDArray[Any], count: int, shown: str) -> list[Any]:
    if values.size != count:
        raise InputError(f"{name} has {values.size} values for {count} of {shown}; give one for each image.")
    if values.dtype != np.object_:
        return values.reshape(-1).tolist()
    try:
        return [each.decode() if isinstance(each, bytes) else each for each in values.reshape(-1)]
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 (byte {error.start}); send text encoded as UTF-8.") from error
