"""Measures edits of real digits: is what is drawn into half of one the class asked for, and does the rest stay.

Run from the repository, after `make setup`, with bundles of digits models that can edit:

    .venv/bin/python -m benchmarks.digits.edits BUNDLE [BUNDLE …]

For each half of the 360 held-out digits it prints the share that a classifier of real digits recognises: of the digits
with their hole (the control), completed as their own class, completed without a class, and completed as the next class;
and the largest difference from the original outside the mask.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from himar.data.digits import DigitClassifier, load_digits_split
from himar_kernels import to_uint8
from himar_kernels.arithmetic.editing import check_edit
from himar_runtime import Pipeline

SEED = 0
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


def held_out() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return real digits that nothing was trained on: pixels uint8 (n, 32, 32, 3), and their classes (n,)."""
    _, real = load_digits_split()
    return to_uint8(real.images.numpy()), real.labels.numpy()


def row(pipeline: Pipeline, classifier: DigitClassifier, name: str, mask: NDArray[np.bool_]) -> list[str]:
    """Return the figures of one half, in the order of HEADINGS."""
    images, labels = held_out()
    following = (labels + 1) % 10
    found = [classifier.accuracy(check_edit(images, mask, len(mask)).filled(), labels)]
    apart = 0
    for asked, expected in ((labels, labels), (None, labels), (following, following)):
        edited = pipeline.edit(images, mask, asked, seed=SEED).images
        assert edited is not None
        found.append(classifier.accuracy(edited, expected))
        outside = np.abs(edited.astype(np.int16) - images)[:, ~mask]
        apart = max(apart, int(outside.max()))
    return [name, *(f"{share:.1%}" for share in found), str(apart)]


def main(bundles: list[str]) -> None:
    """Print one table per bundle."""
    say, classifier = Console(highlight=False), DigitClassifier()
    images, labels = held_out()
    say.print(f"real held-out digits: {len(labels)}, {classifier.accuracy(images, labels):.1%} recognised")
    for bundle in bundles:
        pipeline = Pipeline.load(bundle)
        table = Table(title=Path(bundle).name, title_justify="left")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading == "hole" else "right")
        for name, mask in halves(images.shape[1]).items():
            table.add_row(*row(pipeline, classifier, name, mask))
        say.print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
