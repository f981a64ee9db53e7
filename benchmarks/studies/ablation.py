"""Repeats the paper's table 5 on the digits: six variants at equal budget, several seeds, one table and one plot.

Run from the repository, after `make setup`:

    python -m benchmarks.studies.ablation --out docs/ablation

Every variant is trained from new weights by `himar train`'s loop with the shipped VAE, the same steps and batch, then
sampled and measured against the training digits. Runs that are finished are not done again and a stopped one continues,
so the command can be stopped at any time; two at once share the work if each gets its own --variant.
The report is of all runs of this budget that `--runs` holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.studies.record import COUNT, IMAGES, fields, read_study, require_writable
from himar.families.hi_mar.presets import VARIANTS
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.options import THREADS, NamedPath


@click.command(epilog="Example: python -m benchmarks.studies.ablation --out docs/ablation --seeds 3")
@click.option("--out", required=True, type=NamedPath(file_okay=False), help="Folder of the report.")
@click.option("--runs", default="build/ablation", show_default=True, type=NamedPath(file_okay=False), help="Its runs.")
@click.option("--steps", default=4000, show_default=True, type=COUNT, help="Training steps of each run.")
@click.option("--batch", default=32, show_default=True, type=COUNT, help="Images per step.")
@click.option("--seeds", default=3, show_default=True, type=COUNT, help="Runs per variant: seeds 0, 1, …")
@click.option("--images", default=300, show_default=True, type=IMAGES, help="Images measured of each run.")
@click.option("--variant", "variants", multiple=True, type=click.Choice(list(VARIANTS)), help="Only this; repeatable.")
@click.option("--threads", default=1, show_default=True, type=THREADS, help="CPU threads.")
def main(
    out: Path, runs: Path, steps: int, batch: int, seeds: int, images: int, variants: tuple[str, ...], threads: int
) -> None:
    """Train and measure the variants of the paper's table 5 on the digits."""
    import torch

    from benchmarks.studies.ablation_report import write_report
    from benchmarks.studies.ablation_runs import Bench, Budget, finished_run, run

    torch.set_num_threads(threads)
    budget, bench = Budget(steps, batch, images), None
    chosen = variants or tuple(VARIANTS)
    # Before hours of training: every result and report that is there already has to be of this budget.
    every = [(variant, seed) for variant in VARIANTS for seed in range(seeds)]
    coming = {
        each
        for each in every
        if each[0] in chosen or finished_run(runs / f"{each[0]}-seed{each[1]}", *each, budget) is not None
    }
    for variant, seed in coming:
        finished_run(runs / f"{variant}-seed{seed}", variant, seed, budget)
    _check_report(out / "ablation.json", asdict(budget), coming)
    require_writable(*(out / f"ablation.{ending}" for ending in ("json", "md", "png")))
    # Seed by seed, so that a stopped ablation has compared all variants as often as it could.
    for seed in range(seeds):
        for variant in chosen:
            folder = runs / f"{variant}-seed{seed}"
            if finished_run(folder, variant, seed, budget) is None:
                bench = bench or Bench.open()
                click.echo(f"{variant}, seed {seed}: training")
                click.echo(_line(run(folder, variant, seed, budget, bench, _say)))
    folders = [(runs / f"{variant}-seed{seed}", variant, seed) for variant, seed in every]
    results = [result for run_of in folders if (result := finished_run(*run_of, budget)) is not None]
    bench = bench or Bench.open()
    for path in write_report(out, results, bench.judge.held_out()):
        click.echo(f"wrote {path}")


def _check_report(path: Path, budget: Mapping[str, int], coming: Collection[tuple[str, int]]) -> None:
    """Raise InputError for a file that is not a report, one of another budget, or one of runs that would be lost."""
    found: list[tuple[str, int, Any]] = []

    def check(report: Mapping[str, Any]) -> None:
        for result in report["runs"]:
            found.append((fields(result)["variant"], result["seed"], result["budget"]))
            hash(found[-1][:2])  # a TypeError for lists and objects

    read_study(path, {}, check)
    for variant, seed, before in found:
        if before != budget:
            raise InputError(f"{path} is the report of another budget, {before}, not {budget}; choose another --out.")
        if (variant, seed) not in coming:
            raise InputError(
                f"{path} has {variant} with seed {seed}, which would be lost; give the --runs folder that has it, or "
                f"choose another --out."
            )


def _say(progress: Any) -> None:
    if progress.step % 50 == 0:
        figures = "  ".join(f"{name} {value:.3g}" for name, value in progress.figures.items())
        click.echo(f"  step {progress.step}/{progress.steps}  {figures}")


def _line(result: dict[str, Any]) -> str:
    return f"{result['variant']}, seed {result['seed']}: {json.dumps(result['figures'])}"


if __name__ == "__main__":
    sys.exit(run_cli(main))
