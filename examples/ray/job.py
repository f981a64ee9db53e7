"""Draws many images on a Ray cluster: python examples/ray/job.py BUNDLE FOLDER ACTORS [HOST:PORT]

`himar-export generate --ray` does this with resuming and progress (docs/ray.md); this is for a job of your own.
"""

import sys
from pathlib import Path

import ray

from himar_runtime import Pipeline


@ray.remote(num_cpus=1)
class Painter:
    """Holds a pipeline; Ray starts it where a CPU is free, or a GPU with num_gpus=1 and device="cuda"."""

    def __init__(self, bundle: str) -> None:
        self.pipe = Pipeline.load(bundle, threads=1)

    def paint(self, labels: list[int], first_index: int) -> list[bytes]:
        """Return the pixels of these labels' images; numbered by first_index, so that parts never repeat each other."""
        result = self.pipe.generate(labels, seed=7, first_index=first_index)
        assert result.images is not None
        return [image.tobytes() for image in result.images]


def main(bundle: str, folder: str, actors: str, address: str | None = None) -> None:
    """Draw ten digits per actor, and write each part's pixels; without an address Ray starts on this machine."""
    ray.init(address)
    painters = [Painter.remote(bundle) for _ in range(int(actors))]
    parts = [painter.paint.remote(list(range(10)), 10 * part) for part, painter in enumerate(painters)]
    for part, images in enumerate(ray.get(parts)):
        Path(folder, f"part-{part}.rgb").write_bytes(b"".join(images))


if __name__ == "__main__":
    main(*sys.argv[1:])
