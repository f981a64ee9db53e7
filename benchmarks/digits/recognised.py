"""Counts how many of 1,000 generated digits a classifier of real ones recognises as the class asked for.

Run from the repository, after `make setup`:

    .venv/bin/python -m benchmarks.digits.recognised [BUNDLE …]

Prints the classifier's accuracy on held-out real digits, then that of every bundle's engines and of the shipped eager
model of its family, all from the same seed, and how far the images of each bundle are from eager's. Without bundles it
measures the eager model of each family.
"""

import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.digits.shipped import SHIPPED, eager_images
from himar.data.digits import DigitClassifier, load_digits_split
from himar_kernels import to_uint8
from himar_runtime import Pipeline

LABELS = np.arange(1000) % 10
SEED = 0


def main(bundles: list[str]) -> None:
    """Print one line per source of images."""
    say = Console(highlight=False).print
    classifier = DigitClassifier()
    _, real = load_digits_split()
    say(f"real held-out digits   {classifier.accuracy(to_uint8(real.images.numpy()), real.labels.numpy()):.1%}")
    pipelines = [(Path(bundle).name, Pipeline.load(bundle)) for bundle in bundles]
    eager = {}
    for family in sorted({pipeline.bundle.manifest.family for _, pipeline in pipelines} or SHIPPED):
        start = time.perf_counter()
        eager[family] = eager_images(SHIPPED[family], LABELS.tolist(), SEED)
        share = classifier.accuracy(eager[family], LABELS)
        say(f"eager {family:16} {share:.1%}  {time.perf_counter() - start:.0f} s")
    for name, pipeline in pipelines:
        start = time.perf_counter()
        images = pipeline.generate(LABELS, seed=SEED).images
        assert images is not None
        seconds = time.perf_counter() - start
        apart = np.abs(images.astype(np.int16) - eager[pipeline.bundle.manifest.family].astype(np.int16))
        say(
            f"{name:22} {classifier.accuracy(images, LABELS):.1%}  {seconds:.0f} s; "
            f"from eager: mean {apart.mean():.3f}, largest {apart.max()} of 255"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
