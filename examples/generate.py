"""Draws images of classes and writes a PNG of each: python examples/generate.py BUNDLE FOLDER LABEL…"""

import sys

from himar_runtime import Pipeline


def main(bundle: str, folder: str, *labels: str) -> None:
    """Load the bundle, generate one image per label, and say where each is."""
    pipe = Pipeline.load(bundle, device="cpu")  # "cuda:0" on a GPU
    result = pipe.generate([int(label) for label in labels], seed=7)
    for path, recipe in zip(result.save(folder), result.recipes, strict=True):
        print(f"{path}: class {recipe.label}, seed {recipe.seed}, image {recipe.index}")


if __name__ == "__main__":
    main(*sys.argv[1:])
