"""Loads a bundle and generates in a process of its own: `python -m benchmarks.memory.child '{"bundle": …}'`.

Prints as JSON the most that the process held. Without `images` the smallest engine alone runs once: what the process
holds then without that engine is its base. Linux alone tells a process its peak.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from himar_export.bench.memory_child import resident_peak
from himar_export.memory.child import resident, warmed
from himar_runtime import Bundle, Pipeline
from himar_runtime.memory.prediction import predict
from himar_runtime.prompts import Prompts

ROUNDS = 2
"""Generations of every lane: ONNX Runtime takes the planned memory of a shape in its second run."""


def base(bundle: Bundle) -> int:
    """Return what a process holds in which the smallest engine has run once, without that engine's bytes.

    The tokenizer of prompts is one of its libraries.
    """
    if bundle.manifest.tokenizer is not None:
        Prompts(bundle).texts(["a red circle"])
    kept = warmed(bundle)
    own = next(each for each in predict(bundle.manifest, 1).components if each.name == kept.spec.name)
    return resident() - own.loaded


def peak(asked: dict[str, Any]) -> int:
    """Return the most that this process held while all lanes generated."""
    lanes = [Pipeline.load(asked["bundle"])]
    lanes += [lanes[0].clone() for _ in range(asked["lanes"] - 1)]
    manifest, count = lanes[0].bundle.manifest, asked["images"]

    def work(lane: Pipeline, seed: int) -> None:
        shown: dict[str, Any] = {"labels": [image % (manifest.model.classes or 1) for image in range(count)]}
        if manifest.model.context_shape is not None:
            shown = {"prompts": [f"a red circle {image}" for image in range(count)]}
        for turn in range(ROUNDS):
            lane.generate(**shown, seed=ROUNDS * seed + turn, **asked["changes"])

    threads = [threading.Thread(target=work, args=(lane, seed)) for seed, lane in enumerate(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return resident_peak()


def main(text: str) -> None:
    """Print the bytes that were asked for."""
    asked = json.loads(text)
    found = peak(asked) if "images" in asked else base(Bundle.open(asked["bundle"]))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
