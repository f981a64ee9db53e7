"""Reads scenes back from images and scores them against the scenes that were asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from himar_kernels import InputError

from ..data.scenes.pictures import DIGIT_SIZE, IMAGE_SIZE, PLACES
from ..data.scenes.scene import COLOURS, Item, Layout, Scene
from ..device import full_precision
from .digits_extractor import load_digit_network

BLANK = Scene(())
"""What is read from an image without ink."""

_LEAST_INK = 8.0
"""Sum over pixels of brightness in [0, 1]; the thinnest real digit has 25."""
_ALONE_SHARE = 0.8
"""Share of an image's ink in its middle from which it shows one digit; half of it lies there when there are two."""


@dataclass(frozen=True)
class Scores:
    """Shares (0 to 1) of images that show what was asked for.

    objects: these digits and no others; colours: each digit in its colour; relation: the digits in their places, of
    scenes with two (nan without any); all: every one of these.
    """

    objects: float
    colours: float
    relation: float
    all: float

    def to_dict(self) -> dict[str, float]:
        """Return plain values by name."""
        return asdict(self)


class SceneJudge:
    """Tells layout by where the ink is, colours by vote of the foreground, digits by the shipped digits classifier.

    Nothing in it was trained on generated images.
    """

    def __init__(self) -> None:
        self._network = load_digit_network()
        colours = np.array(list(COLOURS.values()), dtype=np.float32)
        self._colours = colours / colours.max(axis=1, keepdims=True)

    def read(self, images: NDArray[np.uint8]) -> list[Scene]:
        """Images (n, 32, 32, 3) uint8 -> the scene that each shows, `BLANK` without ink. Raises InputError."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
            raise InputError(
                f"scenes are {images.dtype} {images.shape}; they must be uint8 (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)."
            )
        pixels = images.astype(np.float32) / 255
        layouts = [_layout(image) for image in pixels]
        crops = [
            image[top : top + DIGIT_SIZE, left : left + DIGIT_SIZE]
            for image, found in zip(pixels, layouts, strict=True)
            for top, left in ([] if found == "blank" else PLACES[found])
        ]
        items = iter([Item(*pair) for pair in zip(self._digits(crops), map(self._colour, crops), strict=True)])
        return [
            BLANK if found == "blank" else Scene(tuple(next(items) for _ in PLACES[found]), found) for found in layouts
        ]

    @torch.inference_mode()
    def _digits(self, crops: Sequence[NDArray[np.float32]]) -> list[int]:
        if not crops:
            return []
        ink = np.stack(crops).max(axis=3)
        ink /= ink.max(axis=(1, 2), keepdims=True).clip(1e-3)
        with full_precision():
            _, _, logits = self._network(torch.from_numpy(ink)[:, None] * 2 - 1)
        return logits.argmax(dim=1).tolist()

    def _colour(self, crop: NDArray[np.float32]) -> str:
        """Name of the list colour that most of a crop's foreground is nearest to, whatever its brightness."""
        ink = crop.max(axis=2)
        foreground = crop[ink >= ink.max() / 2]
        hues = foreground / foreground.max(axis=1, keepdims=True).clip(1e-3)
        nearest = np.square(hues[:, None] - self._colours).sum(axis=2).argmin(axis=1)
        return list(COLOURS)[np.bincount(nearest, minlength=len(COLOURS)).argmax()]


def score(wanted: Sequence[Scene], read: Sequence[Scene]) -> Scores:
    """Compare scenes read from images with those asked for. Raises InputError unless each has one."""
    if len(wanted) != len(read) or not wanted:
        raise InputError(f"{len(read)} images came with {len(wanted)} scenes; give one scene per image, and any.")
    pairs = list(zip(wanted, read, strict=True))
    objects, colours, relation = (
        [same(asked, shown) for asked, shown in pairs] for same in (same_objects, same_colours, same_relation)
    )
    related = [right for right, (asked, _) in zip(relation, pairs, strict=True) if asked.layout is not None]
    everything = np.logical_and.reduce([objects, colours, relation])
    return Scores(
        float(np.mean(objects)),
        float(np.mean(colours)),
        float(np.mean(related)) if related else float("nan"),
        float(np.mean(everything)),
    )


def same_objects(asked: Scene, shown: Scene) -> bool:
    """Whether both have the same digits, in whatever places and colours."""
    return _count(asked, lambda item: item.digit) == _count(shown, lambda item: item.digit)


def same_colours(asked: Scene, shown: Scene) -> bool:
    """Whether both have the same digits in the same colours, in whatever places."""
    return _count(asked, lambda item: item) == _count(shown, lambda item: item)


def same_relation(asked: Scene, shown: Scene) -> bool:
    """Whether both have the same digits in the same places, in whatever colours."""
    places = [(scene.layout, [item.digit for item in scene.items]) for scene in (asked, shown)]
    return places[0] == places[1]


def _count(scene: Scene, of: Callable[[Item], object]) -> Counter[object]:
    return Counter(of(item) for item in scene.items)


def _layout(image: NDArray[np.float32]) -> Layout | Literal["blank"] | None:
    ink = image.max(axis=2)
    if ink.sum() < _LEAST_INK:
        return "blank"
    middle = slice((IMAGE_SIZE - DIGIT_SIZE) // 2, (IMAGE_SIZE + DIGIT_SIZE) // 2)
    if ink[middle, middle].sum() >= _ALONE_SHARE * ink.sum():
        return None
    return "beside" if ink[middle].sum() >= ink[:, middle].sum() else "stacked"
