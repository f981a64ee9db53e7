"""Compares digits from engines of another precision with those from float32: quality, and how far images differ.

Run from the repository; about 15 minutes of one core for int8, several times that where a precision is emulated:

    himar-export build himar/himar/weights/digits.safetensors --config digits \
        --vae himar/himar/weights/digits-vae.safetensors --int8 --out demo/digits-int8
    python -m benchmarks.studies.precisions demo/digits demo/digits-int8 --out docs/int8

Writes int8.json and int8.md, or fp8's and so on. What the JSON holds is not measured again, so a stopped run continues;
one of other bundles or images, or of more seeds, is refused.
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
from himar_runtime import Bundle

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "ddpm, 100 diffusion steps": {"low_diffusion_steps": 100, "high_diffusion_steps": 100},
    "fast": {"sampling": "fast"},
    "ddpm, 250 diffusion steps": {"low_diffusion_steps": 250, "high_diffusion_steps": 250},
}
"""What each changes of the bundle's default. The gain of a chain's first step magnifies a head's rounding."""

PRECISIONS = ("fp8", "int8", "bf16", "fp16")
"""What a bundle is named by: the first of these that one of its networks has."""

FIGURES = {"distance": (1.0, 1), "precision": (1.0, 3), "recall": (1.0, 3), "recognised": (100.0, 1)}
"""Figure: factor and decimals in the table."""


@click.command(epilog="Example: python -m benchmarks.studies.precisions demo/digits demo/digits-int8 --out docs/int8")
@click.argument("full", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("reduced", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", required=True, type=NamedPath(file_okay=False), help="Folder of the report.")
@click.option("--images", default=300, show_default=True, type=IMAGES, help="Images of each setting and seed.")
@click.option("--seeds", default=3, show_default=True, type=COUNT, help="Seeds 0, 1, … of each setting.")
@click.option("--setting", "settings", multiple=True, type=click.Choice(list(SETTINGS)), help="These alone; else all.")
@click.option("--threads", default=1, show_default=True, type=THREADS, help="CPU threads of the engines.")
def main(
    full: Path, reduced: Path, out: Path, images: int, seeds: int, settings: tuple[str, ...], threads: int
) -> None:
    """Measure the digits bundles FULL, in float32, and REDUCED, of the same weights in another precision."""
    from benchmarks.studies.measure import Judge, even_labels
    from himar_runtime import Pipeline

    for bundle in (full, reduced):
        require_decoder(bundle)
    pair = [Pipeline.load(bundle, threads=threads) for bundle in (full, reduced)]
    other = _precision(*(each.bundle for each in pair))
    target, report = out / f"{other}.json", out / f"{other}.md"
    require_writable(target, report)
    pipelines = dict(zip(("fp32", other), pair, strict=True))
    bundles = {kind: each.bundle.id for kind, each in pipelines.items()}
    study = _read(target, {"bundles": bundles, "images": images}, seeds)
    judge, labels = Judge(), even_labels(images)
    study["held_out"] = judge.held_out().to_dict()
    for seed in range(seeds):
        for name in settings or SETTINGS:
            points = study["points"].setdefault(name, {})
            if str(seed) in points:
                continue
            asked = SETTINGS[name]
            made = {kind: each.generate(labels, seed=seed, **asked).images for kind, each in pipelines.items()}
            apart = np.abs(made["fp32"].astype(np.int16) - made[other].astype(np.int16)).mean()
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
        for kind in study["bundles"]:
            cells = [
                spread([factor * point[kind][figure] for point in points.values()], digits)
                for figure, (factor, digits) in FIGURES.items()
            ]
            apart = spread([point["levels_apart"] for point in points.values()], 1) if kind != "fp32" else ""
            lines.append(row([name if kind == "fp32" else "", kind, *cells, apart]))
    floor = study["held_out"]
    real = [spread([factor * floor[figure]], digits) for figure, (factor, digits) in FIGURES.items()]
    lines.append(row([f"{floor['images']} real held-out digits", "", *real, ""]))
    return "\n".join(lines) + "\n"


def _precision(full: Bundle, reduced: Bundle) -> str:
    """Return the precision of `reduced`, in which it may have some networks alone: a build in fp8 has others in fp16.

    Raises InputError where the bundles' weights differ, or their precisions are not two.
    """
    hashes = {each.manifest.provenance["checkpoint"]["sha256"] for each in (full, reduced)}
    if len(hashes) > 1:
        raise InputError("the two bundles are of different checkpoints; build both from one.")
    found = [{each.manifest.components[name].precision for name in each.manifest.model.networks}
             for each in (full, reduced)]  # fmt: skip
    if found[0] != {"fp32"}:
        raise InputError(f"{full.root} has networks in {', '.join(sorted(found[0]))}; give the fp32 bundle there.")
    kinds = [kind for kind in PRECISIONS if kind in found[1]]
    if not kinds:
        raise InputError(f"{reduced.root} is in fp32 throughout; give a bundle of another precision there.")
    return kinds[0]


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
            for kind in study["bundles"]:
                require_numbers(point[kind], *FIGURES)


if __name__ == "__main__":
    sys.exit(run_cli(main))
