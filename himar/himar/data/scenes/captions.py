"""Words a scene in one of many ways."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .scene import Item, Layout, Scene

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_ALONE = ("{first}", "{first}", "{first} alone", "just {first}", "{first} in the middle")
_TOGETHER: Mapping[Layout, tuple[str, ...]] = {
    "beside": (
        "{first} left of {second}",
        "{first} to the left of {second}",
        "{first} and {second} to its right",
        "{second} right of {first}",
        "{second} to the right of {first}",
        "{second} with {first} on its left",
    ),
    "stacked": (
        "{first} above {second}",
        "{first} over {second}",
        "{first} on top of {second}",
        "{second} below {first}",
        "{second} under {first}",
        "{second} with {first} above it",
    ),
}
_ARTICLES = ("a", "one", "the", "")


def caption(scene: Scene, random: np.random.RandomState) -> str:
    """Return one wording of a scene: "a red three left of a blue seven", "blue 7 above a green 2"."""
    templates = _ALONE if scene.layout is None else _TOGETHER[scene.layout]
    template = templates[random.randint(len(templates))]
    return template.format(
        **dict(zip(("first", "second"), (_named(item, random) for item in scene.items), strict=False))
    )


def captions(scene: Scene, count: int, random: np.random.RandomState) -> list[str]:
    """Return `count` wordings of a scene, some of which may be equal."""
    return [caption(scene, random) for _ in range(count)]


def _named(item: Item, random: np.random.RandomState) -> str:
    article = _ARTICLES[random.randint(len(_ARTICLES))]
    if article == "a" and item.colour[0] in "aeiou":
        article = "an"
    digit = DIGIT_WORDS[item.digit] if random.randint(2) else str(item.digit)
    return f"{article} {item.colour} {digit}".strip()
