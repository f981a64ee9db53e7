"""Measures what masked steps and the other sampling settings do to HMAR's digits, on the same weights and seed.

Run from the repository, after `make setup`; every row is a generation of its own by the eager sampler:

    .venv/bin/python -m benchmarks.digits.schedules --weights FILE.safetensors --guidance 0.5,1

Figures are those of `himar evaluate --extractor digits`, against the training digits.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.digits.shipped import SHIPPED, eager_images
from benchmarks.studies.measure import Judge, even_labels
from himar_kernels.families.hmar import Schedule
from himar_kernels.shared.console import run_cli

SCHEDULES: dict[str, Schedule] = {
    "no masked steps": (),
    "2 × 2 in two": ((1,), (1, 3)),
    "2 × 2 and 3 × 3, as released": ((1,), (1, 3), (1, 1, 2, 5)),
    "up to 5 × 5": ((1,), (1, 3), (1, 1, 2, 5), (5, 8, 12)),
    "every scale": ((1,), (1, 3), (1, 1, 2, 5), (5, 8, 12), (16, 16, 32)),
}
"""For the shipped sides 1, 2, 3, 5, 8."""


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[float]:
    try:
        return [float(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value} is not a list of numbers, such as 1,2.") from error


@click.command()
@click.option("--weights", type=click.Path(path_type=Path), default=SHIPPED["hmar"], help="[default: the shipped ones]")
@click.option("--guidance", default="0.5", show_default=True, callback=_numbers, help="Values for every schedule.")
@click.option("--top-p", default="0.95", show_default=True, callback=_numbers, help="Values, likewise.")
@click.option("--schedule", multiple=True, type=click.Choice(list(SCHEDULES)), help="Only these.  [default: all]")
@click.option("--images", default=500, show_default=True, type=click.IntRange(min=8), help="Images of each row.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the images.")
def main(
    weights: Path, guidance: list[float], top_p: list[float], schedule: tuple[str, ...], images: int, seed: int
) -> None:
    """Print one row per combination of settings."""
    judge, labels = Judge(), even_labels(images)
    headings = ("schedule", "guidance", "top_p", "distance", "precision", "recall", "recognised", "seconds")
    table = Table(*headings, title=f"{images} images, seed {seed}, of {weights.name}")
    for name in schedule or SCHEDULES:
        for scale in guidance:
            for share in top_p:
                changes = {"schedule": SCHEDULES[name], "top_p": share}
                start = time.perf_counter()
                made = eager_images(weights, labels, seed, guidance=scale, changes=changes)
                seconds = time.perf_counter() - start
                found = judge.figures(made, labels)
                figures = (scale, share, found.distance, found.precision, found.recall, found.recognised, seconds)
                table.add_row(name, *(f"{figure:.3g}" for figure in figures))
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(run_cli(main))
