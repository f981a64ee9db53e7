"""Defines the `himar-export` command. The verbs that need torch import it, so the others run without."""

from __future__ import annotations

from collections.abc import Sequence

import click

from himar_kernels.shared.console import run_cli
from himar_kernels.shared.verbs import LazyGroup

__all__ = ["cli", "main"]

_VERBS = {
    "bench": (
        "himar_export.cli.bench:bench",
        "Time the engines of BUNDLE against the eager model: same weights, seeds, precision, boundary and threads",
    ),
    "build": (
        "himar_export.cli.build:build",
        "Export CHECKPOINT to a bundle, verify it against the eager model, and keep it only if it matches",
    ),
    "debug": (
        "himar_export.cli.debug:debug",
        "Find the layer of BUNDLE's component that leaves the float32 reference, and what must stay in float32",
    ),
    "edit": (
        "himar_export.cli.edit:edit",
        "Draw a part of an image anew with the engines of BUNDLE: in-painting, out-painting, another class",
    ),
    "generate": (
        "himar_export.cli.generate:generate",
        "Make images of classes, or of texts, with the engines of BUNDLE",
    ),
    "inspect": (
        "himar_export.cli.inspect:inspect",
        "Show what is in a bundle and where its bytes go, or how a generated PNG was made, or what a run costs",
    ),
    "plan": (
        "himar_export.cli.plan:plan",
        "Say how many devices answer a rate of requests in time, how to serve on each, and what that costs",
    ),
    "record": (
        "himar_export.cli.verify:record",
        "Run the eager model of CHECKPOINT and write every draw and result, for `verify --recording`",
    ),
    "refit": (
        "himar_export.cli.build:refit",
        "Make a bundle like BUNDLE with the weights of CHECKPOINT, without building its engines again",
    ),
    "tokens": (
        "himar_export.cli.tokens:tokens",
        "Print the token ids of texts as a JSON list of lists, without padding",
    ),
    "triton": (
        "himar_export.cli.triton:triton",
        "Write BUNDLE as a model of Triton's Python backend into a model repository",
    ),
    "verify": (
        "himar_export.cli.verify:verify",
        "Replay the self-test of BUNDLE, or a recorded run, and compare: exit code 0 only if everything matches",
    ),
}


@click.group(
    cls=LazyGroup,
    verbs=_VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="himar", prog_name="himar-export")
def cli() -> None:
    """Turn a Hi-MAR checkpoint into a bundle of engines, check it, and make images with it.

    Add --debug to any command to see the traceback of an error.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_cli(cli, argv)
