"""Draws the picture of edits in docs/editing.md: one held-out digit of each class per column.

Run from the repository, after `make setup`, with a bundle of a digits model that can edit:

    .venv/bin/python -m benchmarks.digits.edits_picture BUNDLE docs/digits-edits.png

Rows: the digit; the digit with its right half taken out; completed as its own class with two seeds; completed without a
class; completed as the next class; its middle third alone, and drawn around (out-painting as its own class).
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.digits.edits import halves, held_out
from himar_kernels import to_sheet
from himar_runtime import Pipeline, write_png
from himar_runtime.recipe import Recipe

ENLARGED = 2
HOLE = (70, 110, 190)


def one_of_each() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the first held-out digit of each class, and the classes."""
    images, labels = held_out()
    first = np.array([int(np.flatnonzero(labels == digit)[0]) for digit in range(10)])
    return images[first], labels[first]


def shown(images: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the images with the part that is to be drawn in a colour of its own."""
    return np.where(mask[..., None], np.array(HOLE, np.uint8), images)


def rows(pipeline: Pipeline) -> tuple[NDArray[np.uint8], list[Recipe]]:
    """Return all images row by row, and the recipes of those that were drawn."""
    images, labels = one_of_each()
    right = halves(images.shape[1])["right"]
    border = np.ones_like(right)
    border[:, 11:21] = False
    recipes: list[Recipe] = []

    def drawn(mask: NDArray[np.bool_], asked: NDArray[np.int64] | None, seed: int) -> NDArray[np.uint8]:
        result = pipeline.edit(images, mask, asked, seed=seed)
        assert result.images is not None
        recipes.extend(result.recipes)
        return result.images

    parts = [
        images,
        shown(images, right),
        drawn(right, labels, 0),
        drawn(right, labels, 1),
        drawn(right, None, 0),
        drawn(right, (labels + 1) % 10, 0),
        shown(images, border),
        drawn(border, labels, 0),
    ]
    return np.concatenate(parts), recipes


def main(bundle: str, out: str) -> None:
    """Write the picture as a PNG with the recipes of what was drawn."""
    images, recipes = rows(Pipeline.load(bundle))
    large = images.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    write_png(Path(out), to_sheet(large, 10), recipes)


if __name__ == "__main__":
    main(*sys.argv[1:])
