"""Measures edits of real digits: is what is drawn into half of one the class asked for, and does the rest stay.

Run from the repository, after `make setup`, with bundles of digits models that can edit:

    .venv/bin/python -m benchmarks.digits.edits [--dilation N] BUNDLE [BUNDLE …]

It draws a part of 500 digits anew, each half and a random 40 % of the 4 × 4 squares: the 360 held-out ones, and the
first 140 of them again with draws of their own. Of each part it prints the share that a classifier of real digits
recognises: of the digits with their hole (the control), completed as their own class, completed without a class, and
completed as the next class; and the largest difference from the original outside the mask.
"""

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from himar.data.digits import DigitClassifier, load_digits_split
from himar_kernels import to_uint8
from himar_kernels.arithmetic.editing import check_edit
from himar_runtime import Pipeline

SEED = 0
COUNT = 500
SQUARE, SHARE = 4, 0.4
HEADINGS = ("hole", "not drawn", "own class", "no class", "next class", "outside, of 255")


def halves(side: int) -> dict[str, NDArray[np.bool_]]:
    """Return masks bool (side, side) by name: True in the half that is drawn anew."""
    row, column = np.indices((side, side))
    return {
        "left": column < side // 2,
        "right": column >= side // 2,
        "top": row < side // 2,
        "bottom": row >= side // 2,
    }


def squares(count: int, side: int) -> NDArray[np.bool_]:
    """Return masks bool (count, side, side): in each another random SHARE of its squares of SQUARE pixels, rounded."""
    across = side // SQUARE
    order = np.argsort(np.random.default_rng(SEED).random((count, across**2)), axis=1)
    chosen = (order < round(SHARE * across**2)).reshape(count, across, across)
    return chosen.repeat(SQUARE, axis=1).repeat(SQUARE, axis=2)


def held_out() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return real digits that nothing was trained on: pixels uint8 (n, 32, 32, 3), and their classes (n,)."""
    _, real = load_digits_split()
    return to_uint8(real.images.numpy()), real.labels.numpy()


def row(
    pipeline: Pipeline, classifier: DigitClassifier, name: str, masks: NDArray[np.bool_], dilation: int | None
) -> list[str]:
    """Return the figures of one part, in the order of HEADINGS; masks bool (COUNT, side, side)."""
    images, labels = (np.resize(each, (COUNT, *each.shape[1:])) for each in held_out())
    following = (labels + 1) % 10
    found = [classifier.accuracy(check_edit(images, list(masks), masks.shape[1]).filled(), labels)]
    apart = 0
    for asked, expected in ((labels, labels), (None, labels), (following, following)):
        edited = pipeline.edit(images, list(masks), asked, seed=SEED, dilation=dilation).images
        assert edited is not None
        found.append(classifier.accuracy(edited, expected))
        outside = np.abs(edited.astype(np.int16) - images)[~masks]
        apart = max(apart, int(outside.max()))
    return [name, *(f"{share:.1%}" for share in found), str(apart)]


@click.command()
@click.argument("bundles", nargs=-1, required=True)
@click.option("--dilation", type=int, help="Rings of cells around the mask's that are drawn too, of Hi-MAR.")
def main(bundles: tuple[str, ...], dilation: int | None) -> None:
    """Print one table per bundle."""
    say, classifier = Console(highlight=False), DigitClassifier()
    images, labels = held_out()
    say.print(f"real held-out digits: {len(labels)}, {classifier.accuracy(images, labels):.1%} recognised")
    for bundle in bundles:
        pipeline = Pipeline.load(bundle)
        table = Table(title=Path(bundle).name, title_justify="left")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading == "hole" else "right")
        side = images.shape[1]
        parts = {name: np.broadcast_to(mask, (COUNT, side, side)) for name, mask in halves(side).items()}
        for name, masks in {**parts, f"random {SHARE:.0%}": squares(COUNT, side)}.items():
            table.add_row(*row(pipeline, classifier, name, masks, dilation))
        say.print(table)


if __name__ == "__main__":
    main()
