"""Draws scenes from scikit-learn's real digits, with captions: sets to train on and to measure with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..digits import load_digits_split
from .captions import captions
from .scene import COLOURS, Layout, Scene, draw_scenes

IMAGE_SIZE, DIGIT_SIZE = 32, 16
CAPTIONS = 5
"""Wordings of each scene, as many as MS-COCO has."""

_MIDDLE, _FAR = (IMAGE_SIZE - DIGIT_SIZE) // 2, IMAGE_SIZE - DIGIT_SIZE
PLACES: Mapping[Layout | None, tuple[tuple[int, int], ...]] = {
    None: ((_MIDDLE, _MIDDLE),),
    "beside": ((_MIDDLE, 0), (_MIDDLE, _FAR)),
    "stacked": ((0, _MIDDLE), (_FAR, _MIDDLE)),
}
"""Top and left pixel of each item by layout."""


@dataclass(frozen=True)
class SceneSet:
    """Scenes, their images (n, 3, 32, 32) float32 in [-1, 1], and the wordings of each."""

    scenes: Sequence[Scene]
    images: Tensor
    captions: Sequence[Sequence[str]]


def make_scenes(count: int, seed: int, *, seen: bool = True, train: bool = True) -> SceneSet:
    """Make `count` scenes: of seen combinations or held-out ones, from the training digits or the held-out ones.

    A seed gives the same scenes, digits and wordings everywhere. Raises InputError for a count below 1.
    """
    scenes = draw_scenes(count, seed, seen=seen)
    random = np.random.RandomState([seed, 1])  # another stream than that of the scenes
    images = _draw(scenes, train, random)
    return SceneSet(scenes, images, [captions(scene, CAPTIONS, random) for scene in scenes])


def _draw(scenes: Sequence[Scene], train: bool, random: np.random.RandomState) -> Tensor:
    digits = load_digits_split(DIGIT_SIZE)[0 if train else 1]
    inks = (digits.images[:, :1] + 1) / 2
    indices = [torch.nonzero(digits.labels == digit).flatten().tolist() for digit in range(10)]
    canvas = torch.zeros(len(scenes), 3, IMAGE_SIZE, IMAGE_SIZE)
    for image, scene in zip(canvas, scenes, strict=True):
        for item, (top, left) in zip(scene.items, PLACES[scene.layout], strict=True):
            chosen = indices[item.digit][random.randint(len(indices[item.digit]))]
            colour = torch.tensor(COLOURS[item.colour]).reshape(3, 1, 1) / 255
            image[:, top : top + DIGIT_SIZE, left : left + DIGIT_SIZE] = inks[chosen] * colour
    return canvas * 2 - 1
