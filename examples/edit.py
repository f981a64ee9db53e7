"""Draws the right half of an image anew, as another class: python examples/edit.py BUNDLE IMAGE.png LABEL OUT.png

Bundles of HMAR edit; those of Hi-MAR when they were built with --editing (docs/editing.md).
"""

import sys

import numpy as np
from PIL import Image

from himar_runtime import Pipeline
from himar_runtime.edit_files import read_image


def main(bundle: str, path: str, label: str, out: str) -> None:
    """Keep the left half pixel by pixel, and draw the rest to fit."""
    image = read_image(path)
    mask = np.zeros(image.shape[:2], bool)
    mask[:, image.shape[1] // 2 :] = True  # True is drawn anew
    result = Pipeline.load(bundle).edit([image], [mask], [int(label)], seed=7)
    assert np.array_equal(result.images[0][~mask], image[~mask])
    Image.fromarray(result.images[0]).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
