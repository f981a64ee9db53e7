"""Counts how many of 1,000 generated digits a classifier of real ones recognises as the class asked for.

Run from the repository, after `make setup`:

    .venv/bin/python -m benchmarks.digits.recognised BUNDLE [BUNDLE …]

Prints the classifier's accuracy on held-out real digits, then that of every bundle's engines and of the eager model,
all from the same seed, and how far the images of each bundle are from eager's.
"""

import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from himar import load_checkpoint, load_vae
from himar.data.digits import DigitClassifier, load_digits_split
from himar.images import sample_images
from himar_kernels import PhiloxDraws, to_uint8
from himar_runtime import Pipeline

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
LABELS = np.arange(1000) % 10
SEED = 0


def main(bundles: list[str]) -> None:
    """Print one line per source of images."""
    say = Console(highlight=False).print
    classifier = DigitClassifier()
    _, real = load_digits_split()
    say(f"real held-out digits   {classifier.accuracy(to_uint8(real.images.numpy()), real.labels.numpy()):.1%}")
    start = time.perf_counter()
    model, vae = load_checkpoint(WEIGHTS / "digits.safetensors"), load_vae(WEIGHTS / "digits-vae.safetensors")
    eager = sample_images(model, vae, LABELS.tolist(), PhiloxDraws(SEED))
    say(f"eager                  {classifier.accuracy(eager, LABELS):.1%}  {time.perf_counter() - start:.0f} s")
    for bundle in bundles:
        start = time.perf_counter()
        images = Pipeline.load(bundle).generate(LABELS, seed=SEED).images
        assert images is not None
        seconds = time.perf_counter() - start
        apart = np.abs(images.astype(np.int16) - eager.astype(np.int16))
        say(
            f"{Path(bundle).name:22} {classifier.accuracy(images, LABELS):.1%}  {seconds:.0f} s; "
            f"from eager: mean {apart.mean():.3f}, largest {apart.max()} of 255"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
