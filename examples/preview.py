"""Shows an image before it is finished, and stops half-way: python examples/preview.py BUNDLE PREVIEW.png STEPS"""

import sys

from PIL import Image

from himar_runtime import Pipeline, Progress


def main(bundle: str, path: str, steps: str) -> None:
    """Write the image as it is after STEPS steps, and cancel there."""

    def on_step(progress: Progress) -> bool:
        print(f"{progress}: {progress.done} of {progress.total}")
        if progress.done < int(steps):
            return True
        Image.fromarray(progress.so_far()[0]).save(path)  # decoded here; steps that ask for nothing pay nothing
        return False  # cancels

    result = Pipeline.load(bundle).generate([3], seed=7, on_step=on_step)
    print(f"{result.status}: {len(result.labels)} images finished")


if __name__ == "__main__":
    main(*sys.argv[1:])
