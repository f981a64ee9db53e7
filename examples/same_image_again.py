"""Makes an image again from the recipe that its PNG carries: python examples/same_image_again.py BUNDLE IMAGE.png"""

import sys

import numpy as np
from PIL import Image

from himar_runtime import Pipeline, read_recipes


def main(bundle: str, path: str) -> None:
    """Read the recipe, draw the image alone, and compare pixels."""
    (recipe,) = read_recipes(path)
    pipe = Pipeline.load(bundle)
    if recipe.bundle != pipe.bundle.id:
        sys.exit(f"{path} was made by another bundle, {recipe.bundle[:16]}…")
    again = pipe.generate(**recipe.request()).images[0]
    apart = np.abs(again.astype(int) - np.asarray(Image.open(path), int)).max()
    print(f"the image made again differs by at most {apart} of 255")


if __name__ == "__main__":
    main(*sys.argv[1:])
