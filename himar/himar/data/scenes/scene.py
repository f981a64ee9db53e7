"""Defines what a scene shows, and which combinations no training scene has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np

from himar_kernels import InputError

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 230, 60),
    "green": (50, 185, 70),
    "cyan": (60, 215, 230),
    "blue": (60, 90, 240),
    "pink": (240, 90, 200),
    "white": (245, 245, 245),
}
"""The eight colours of digits, RGB; the canvas is black."""

Layout = Literal["beside", "stacked"]
"""How two digits stand: the first left of the second, or above it."""

_DIGITS = 10
_HELD_OUT_SHARE = 0.15
_HELD_OUT_SEED = 118
"""The first with which no digit and no colour has more than two of the held-out pairs, and layouts are even."""
_TWO_SHARE = 0.8

T = TypeVar("T")


class Item(NamedTuple):
    """A digit, 0 to 9, and the name of its colour."""

    digit: int
    colour: str


@dataclass(frozen=True)
class Scene:
    """One item, or two: the left or top one first. layout is None for one item."""

    items: tuple[Item, ...]
    layout: Layout | None = None

    @property
    def triple(self) -> tuple[int, int, Layout] | None:
        """(left or top digit, right or bottom digit, layout) of two items, None of one."""
        if self.layout is None:
            return None
        first, second = self.items
        return first.digit, second.digit, self.layout

    @property
    def seen(self) -> bool:
        """Whether training may have this scene: no pair and no triple of it is held out."""
        pairs, triples = held_out()
        return not pairs.intersection(self.items) and self.triple not in triples

    @property
    def facts(self) -> tuple[int, ...]:
        """What its captions say, as numbers: layout, then digit and colour of each of two places.

        A layout that is none, and digit and colour of a place without an item, are numbers of their own.
        """
        layouts, colours = (*get_args(Layout), None), list(COLOURS)
        items = [(item.digit, colours.index(item.colour)) for item in self.items]
        empty = [(_DIGITS, len(colours))] * (2 - len(items))
        return (layouts.index(self.layout), *(number for item in items + empty for number in item))


@functools.cache
def held_out() -> tuple[frozenset[Item], frozenset[tuple[int, int, Layout]]]:
    """Return what no training scene has: 12 of the 80 (digit, colour) pairs and 30 of the 200 triples."""
    random = np.random.RandomState(_HELD_OUT_SEED)
    pairs = [Item(digit, colour) for digit in range(_DIGITS) for colour in COLOURS]
    triples = [
        (first, second, layout) for first in range(_DIGITS) for second in range(_DIGITS) for layout in get_args(Layout)
    ]
    return frozenset(_share(pairs, random)), frozenset(_share(triples, random))


def draw_scenes(count: int, seed: int, *, seen: bool) -> list[Scene]:
    """Draw scenes of seen combinations, or of held-out ones (each has a held-out pair or triple).

    Four of five have two items; digits, colours and layout are uniform among what is asked for. The same seed gives the
    same scenes with every version of NumPy, whose RandomState is frozen. Raises InputError for a count below 1.
    """
    if count < 1:
        raise InputError(f"the number of scenes is {count}; it must be at least 1.")
    random = np.random.RandomState(seed)
    return [_draw_until(lambda scene: scene.seen == seen, random) for _ in range(count)]


def _draw_until(wanted: Callable[[Scene], bool], random: np.random.RandomState) -> Scene:
    count = 2 if random.random_sample() < _TWO_SHARE else 1
    while True:
        items = tuple(Item(random.randint(_DIGITS), list(COLOURS)[random.randint(len(COLOURS))]) for _ in range(count))
        layout = get_args(Layout)[random.randint(2)] if count == 2 else None
        scene = Scene(items, layout)
        if wanted(scene):
            return scene


def _share(values: Sequence[T], random: np.random.RandomState) -> list[T]:
    order = random.permutation(len(values))
    return [values[index] for index in order[: round(_HELD_OUT_SHARE * len(values))]]
