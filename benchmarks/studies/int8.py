"""Compares digits from engines in int8 with those from float32: quality over chains, and how far images differ.

Run from the repository; about 15 minutes of one core:

    himar-export build himar/himar/weights/digits.safetensors --config digits \
        --vae himar/himar/weights/digits-vae.safetensors --int8 --out demo/digits-int8
    python -m benchmarks.studies.int8 demo/digits demo/digits-int8 --out docs/int8

Writes int8.json and int8.md. What the JSON holds is not measured again, so a stopped run continues; one of other
bundles or images, or of more seeds, is refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.studies.record import (
    COUNT,
    IMAGES,
    fields,
    read_study,
    require_decoder,
    require_numbers,
    require_writable,
)
from benchmarks.studies.report import row, spread
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.files import write_json, write_text
from himar_kernels.shared.options import THREADS, NamedPath

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "ddpm, 100 diffusion steps": {"low_diffusion_steps": 100, "high_diffusion_steps": 100},
    "fast": {"sampling": "fast"},
    "ddpm, 250 diffusion steps": {"low_diffusion_steps": 250, "high_diffusion_steps": 250},
}
"""What each changes of the bundle's default. The gain of a chain's first step magnifies int8's rounding."""

FIGURES = {"distance": (1.0, 1), "precision": (1.0, 3), "recall": (1.0, 3), "recognised": (100.0, 1)}
"""Figure: factor and decimals in the table."""


@click.command(epilog="Example: python -m benchmarks.studies.int8 demo/digits demo/digits-int8 --out docs/int8")
@click.argument("full", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("int8", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", required=True, type=NamedPath(file_okay=False), help="Folder of the report.")
@click.option("--images", default=300, show_default=True, type=IMAGES, help="Images of each setting and seed.")
@click.option("--seeds", default=3, show_default=True, type=COUNT, help="Seeds 0, 1, … of each setting.")
@click.option("--threads", default=1, show_default=True, type=THREADS, help="CPU threads of the engines.")
def main(full: Path, int8: Path, out: Path, images: int, seeds: int, threads: int) -> None:
    """Measure the digits bundles FULL, in float32, and INT8, of the same weights."""
    from benchmarks.studies.measure import Judge, even_labels
    from himar_runtime import Pipeline

    target, report = out / "int8.json", out / "int8.md"
    for bundle in (full, int8):
        require_decoder(bundle)
    require_writable(target, report)
    pipelines = {"fp32": Pipeline.load(full, threads=threads), "int8": Pipeline.load(int8, threads=threads)}
    _check(pipelines)
    bundles = {kind: each.bundle.id for kind, each in pipelines.items()}
    study = _read(target, {"bundles": bundles, "images": images}, seeds)
    judge, labels = Judge(), even_labels(images)
    study["held_out"] = judge.held_out().to_dict()
    for seed in range(seeds):
        for name, changes in SETTINGS.items():
            points = study["points"].setdefault(name, {})
            if str(seed) in points:
                continue
            made = {kind: each.generate(labels, seed=seed, **changes).images for kind, each in pipelines.items()}
            apart = np.abs(made["fp32"].astype(np.int16) - made["int8"].astype(np.int16)).mean()
            figures = {kind: judge.figures(each, labels).to_dict() for kind, each in made.items()}
            points[str(seed)] = {**figures, "levels_apart": float(apart)}
            out.mkdir(parents=True, exist_ok=True)
            write_json(target, study)
            click.echo(f"seed {seed}, {name}: {json.dumps(points[str(seed)])}")
    write_text(report, table(study))
    click.echo(f"wrote {target} and {report}")


def table(study: Mapping[str, Any]) -> str:
    """Return the table as Markdown: a row per setting and precision, mean ± standard deviation over the seeds."""
    headings = ["setting", "precision", "distance", "precision", "recall", "recognised, %", "levels of 255 apart"]
    lines = [row(headings), row(["---", "---"] + ["---:"] * (len(headings) - 2))]
    for name, points in study["points"].items():
        for kind in ("fp32", "int8"):
            cells = [
                spread([factor * point[kind][figure] for point in points.values()], digits)
                for figure, (factor, digits) in FIGURES.items()
            ]
            apart = spread([point["levels_apart"] for point in points.values()], 1) if kind == "int8" else ""
            lines.append(row([name if kind == "fp32" else "", kind, *cells, apart]))
    floor = study["held_out"]
    real = [spread([factor * floor[figure]], digits) for figure, (factor, digits) in FIGURES.items()]
    lines.append(row([f"{floor['images']} real held-out digits", "", *real, ""]))
    return "\n".join(lines) + "\n"


def _check(pipelines: Mapping[str, Any]) -> None:
    """Raise InputError where the bundles' weights differ, or their precisions are not these."""
    hashes = {kind: each.bundle.manifest.provenance["checkpoint"]["sha256"] for kind, each in pipelines.items()}
    if len(set(hashes.values())) > 1:
        raise InputError("the two bundles are of different checkpoints; build both from one.")
    for kind, each in pipelines.items():
        for name in each.bundle.manifest.model.networks:
            found = each.bundle.manifest.components[name].precision
            if found != kind:
                raise InputError(f"{each.bundle.root} has {name} in {found}; give the {kind} bundle there.")


def _read(path: Path, asked: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    """Return what is known of these bundles and this number of images.

    Raises InputError for a file that is not a record of the study, one of others, or one of more seeds: its table would
    not be of those that were asked for.
    """
    study = read_study(path, asked, _check_form) or {**asked, "points": {}}
    most = max((1 + int(seed) for points in study["points"].values() for seed in points), default=0)
    if most > seeds:
        raise InputError(f"{path} was measured with {most} seeds, not {seeds}; ask for more or choose another --out.")
    return study


def _check_form(study: Mapping[str, Any]) -> None:
    """Raise TypeError, KeyError or ValueError where a record has not the form that `main` writes."""
    for points in fields(study["points"]).values():
        for seed, point in fields(points).items():
            int(seed)
            require_numbers(point, "levels_apart")
            for kind in ("fp32", "int8"):
                require_numbers(point[kind], *FIGURES)


if __name__ == "__main__":
    sys.exit(run_cli(main))
