"""Draws the picture at the head of the README: images from prompts as they sharpen, digits, and digits edited.

Run from the repository, with bundles of the shipped models; that of the digits is built with --editing:

    .venv/bin/python -m benchmarks.front DIGITS SCENES docs/front.png

From top to bottom: three prompts whose images are shown from the first pivots to the last step; one digit of each
class; held-out digits with a hole, and completed as their own class. The PNG carries the recipes of all that was drawn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.digits.edits import halves
from benchmarks.digits.edits_picture import one_of_each, shown
from himar_kernels import to_sheet
from himar_runtime import Pipeline, write_png
from himar_runtime.recipe import Recipe
from himar_runtime.result import Progress

COLUMNS, SIDE, GAP = 10, 96, 12
PAPER = 255
PROMPTS = (
    "a red three left of a blue seven",
    "a blue 7 above a green 2",
    "the white 0 under the orange 8",
)
SEED = 2

Pictures = NDArray[np.uint8]


def enlarged(images: Pictures) -> Pictures:
    """Return images (B, p, p, 3) at SIDE pixels a side, each pixel a square; p divides SIDE."""
    times = SIDE // images.shape[1]
    return images.repeat(times, axis=1).repeat(times, axis=2)


def sharpening(pipeline: Pipeline) -> tuple[Pictures, tuple[Recipe, ...]]:
    """Return COLUMNS pictures of each prompt, the last the image, and the recipes of the images."""
    seen: list[Pictures] = []
    result = pipeline.generate(prompts=list(PROMPTS), seed=SEED, on_step=lambda step: seen.append(_so_far(step)))
    assert result.images is not None
    seen[-1] = enlarged(result.images)
    chosen = np.linspace(0, len(seen) - 1, COLUMNS).round().astype(int)
    return np.stack([seen[place] for place in chosen], axis=1).reshape(-1, SIDE, SIDE, 3), result.recipes


def _so_far(step: Progress) -> Pictures:
    return enlarged(step.so_far())


def edited(pipeline: Pipeline) -> tuple[Pictures, tuple[Recipe, ...]]:
    """Return held-out digits with a hole and, below them, completed; and the recipes of the latter."""
    images, labels = one_of_each()
    hole = halves(images.shape[1])["right"]
    result = pipeline.edit(images, hole, labels, seed=0)
    assert result.images is not None
    return enlarged(np.concatenate([shown(images, hole), result.images])), result.recipes


def picture(digits: Pipeline, scenes: Pipeline) -> tuple[Pictures, list[Recipe]]:
    """Return the whole picture (H, W, 3) and the recipes of what was drawn, row by row."""
    drawn = digits.generate(list(range(COLUMNS)), seed=7)
    assert drawn.images is not None
    prompted, completed = sharpening(scenes), edited(digits)
    parts = [prompted[0], enlarged(drawn.images), completed[0]]
    sheets = [to_sheet(part, COLUMNS) for part in parts]
    gap = np.full((GAP, *sheets[0].shape[1:]), PAPER, np.uint8)
    return np.concatenate([each for sheet in sheets for each in (sheet, gap)][:-1]), [
        *prompted[1],
        *drawn.recipes,
        *completed[1],
    ]


def main(digits: str, scenes: str, out: str) -> None:
    """Write the picture as a PNG."""
    write_png(Path(out), *picture(Pipeline.load(digits), Pipeline.load(scenes)))


if __name__ == "__main__":
    main(*sys.argv[1:])
