"""Defines the `himar` command: trains, samples and initialises models in PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from himar_kernels.shared.console import run_cli
from himar_kernels.shared.verbs import LazyGroup

__all__ = ["cli", "main"]

_VERBS = {
    "cache-latents": (
        "himar.cli.cache:cache_latents_command",
        "Encode IMAGES for training: with a KL VAE at both scales, plain and flipped; with HMAR's tokenizer to codes",
    ),
    "drift": (
        "himar.cli.drift:drift",
        "Measure what leaving evaluations out does to the chains of CHECKPOINT's heads, and propose settings",
    ),
    "evaluate": (
        "himar.cli.evaluate:evaluate",
        "Measure images: FID, sFID, inception score, precision and recall, and the CLIP score of images from text",
    ),
    "init": (
        "himar.cli.sample:init",
        "Write random weights in the released layout, to try an export at real size without a trained model",
    ),
    "sample": ("himar.cli.sample:sample", "Sample images with the eager model, without engines"),
    "strip": (
        "himar.cli.strip:strip_command",
        "Write the weights of CHECKPOINT to OUT, a .safetensors file that holds tensors and nothing else",
    ),
    "train": (
        "himar.cli.train:train_command",
        "Train a model from new weights, or from a checkpoint's; with --data digits its VAE too",
    ),
}


@click.group(
    cls=LazyGroup,
    verbs=_VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="himar", prog_name="himar")
def cli() -> None:
    """Train Hi-MAR and HMAR models and sample from them in PyTorch.

    Add --debug to any command to see the traceback of an error.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code: 0 success, 1 failure, 2 wrong usage."""
    sys.exit(run_cli(cli, argv))
