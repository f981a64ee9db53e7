"""Exports a checkpoint of your own from Python: python examples/export_checkpoint.py CHECKPOINT VAE CONFIG BUNDLE"""

import sys
from pathlib import Path

from himar_export.make.build import BuildRequest, build


def main(checkpoint: str, vae: str, config: str, bundle: str) -> None:
    """Build the bundle, which fails unless its engines give the model's numbers, and print how near they are.

    config: a preset, or a JSON file such as {"heads": 12, "dit_heads": 8}; "-" where the checkpoint carries its own.
    """
    request = BuildRequest(
        checkpoint=Path(checkpoint),
        vae=Path(vae),
        config=None if config == "-" else config,
        out=Path(bundle),
        max_batch=16,
    )
    outcome = build(request, progress=lambda text, done: print(f"{done:4.0%} {text}", file=sys.stderr))
    for comparison in outcome.comparisons:
        print(f"{comparison.name}: {comparison.relative_l2:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
