"""Generates in two threads at once: clones share the weights. python examples/two_threads.py BUNDLE"""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from himar_runtime import Pipeline


def main(bundle: str) -> None:
    """Draw the ten digits in two lanes, five each, and then all in one call: the images are the same."""
    pipe = Pipeline.load(bundle, threads=1)
    lanes = [pipe.clone(), pipe.clone()]  # one per thread: shared weights, own buffers
    with ThreadPoolExecutor(max_workers=2) as threads:
        first = threads.submit(lanes[0].generate, [0, 1, 2, 3, 4], seed=7)
        second = threads.submit(lanes[1].generate, [5, 6, 7, 8, 9], seed=7, first_index=5)
        parts = [first.result().images, second.result().images]
    whole = pipe.generate(range(10), seed=7).images
    apart = np.abs(np.concatenate(parts).astype(int) - whole.astype(int)).max()
    print(f"two threads and one call differ by at most {apart} of 255")


if __name__ == "__main__":
    main(*sys.argv[1:])
