"""Measures how good the digits get in training: distance and recognised share of every kept snapshot, and a plot.

Run from the repository, after `make setup`; the training writes the weights along the way (about an hour of one
core), this measures them (a minute and a half per snapshot):

    himar train --config digits --data digits --seed 0 --threads 1 --keep-snapshots --out runs/digits
    python -m benchmarks.digits.curve runs/digits --out docs/digits-curve

Writes digits-curve.json and digits-curve.png. Snapshots that the JSON has already are not measured again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.files import write_json

_COUNT = click.IntRange(min=1)


@click.command(epilog="Example: python -m benchmarks.digits.curve runs/digits --out docs/digits-curve")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON and PNG, without their endings.")
@click.option("--every", default=1, show_default=True, type=_COUNT, help="Measure every n-th snapshot, and the last.")
@click.option("--images", default=500, show_default=True, type=_COUNT, help="Images of each snapshot.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the images.")
@click.option("--threads", default=1, show_default=True, type=_COUNT, help="CPU threads.")
def main(folder: Path, out: Path, every: int, images: int, seed: int, threads: int) -> None:
    """Measure the snapshots that `himar train --data digits --keep-snapshots` left in FOLDER."""
    import torch

    from benchmarks.studies.measure import Judge, even_labels
    from himar import load_checkpoint, load_vae
    from himar.families.hi_mar.digits import MODEL_FILE, VAE_FILE
    from himar.images import sample_images
    from himar_kernels import PhiloxDraws
    from himar_kernels.shared.files import file_sha256

    torch.set_num_threads(threads)
    snapshots = kept_snapshots(folder, Path(MODEL_FILE).stem)
    wanted = [snapshot for number, snapshot in enumerate(reversed(snapshots)) if number % every == 0][::-1]
    target, judge, vae, labels = out.with_suffix(".json"), Judge(), load_vae(folder / VAE_FILE), even_labels(images)
    hashes = {step: file_sha256(path) for step, path in wanted}
    known = _read(target)["points"] if target.exists() else []
    points = still_true(known, hashes, images, seed)
    for step, path in wanted:
        if step not in points:
            made = sample_images(load_checkpoint(path, "digits"), vae, labels, PhiloxDraws(seed))
            figures = judge.figures(made, labels).to_dict()
            points[step] = {"step": step, "sha256": hashes[step], "seed": seed, "figures": figures}
        click.echo(f"step {step}: {json.dumps(points[step]['figures'])}")
        ordered = [points[each] for each in sorted(points)]  # those known of later steps too: a run may be stopped here
        _write(target, {"held_out": judge.held_out().to_dict(), "points": ordered})
    click.echo(f"wrote {target} and {plot(out.with_suffix('.png'), ordered, judge.held_out().to_dict())}")


def still_true(
    known: Sequence[Mapping[str, Any]], hashes: Mapping[int, str], images: int, seed: int
) -> dict[int, Mapping[str, Any]]:
    """Return by step the known points of weights with these SHA-256, measured on as many images of the same seed."""
    by_hash = {point["sha256"]: point for point in known}
    found = {step: by_hash[sha256] for step, sha256 in hashes.items() if sha256 in by_hash}
    return {
        step: {**point, "step": step}
        for step, point in found.items()
        if (point["figures"]["images"], point["seed"]) == (images, seed)
    }


def kept_snapshots(folder: Path, stem: str) -> list[tuple[int, Path]]:
    """Return (step, weights) of a training's kept snapshots in order. Raises InputError when there are none."""
    matches = ((re.fullmatch(rf"{stem}-(\d+)", path.stem), path) for path in folder.glob(f"{stem}-*.safetensors"))
    found = sorted((int(match[1]), path) for match, path in matches if match)
    if not found:
        raise InputError(f"{folder} holds no {stem}-STEP.safetensors; train with himar train --keep-snapshots.")
    return found


def plot(path: Path, points: Sequence[Mapping[str, Any]], floor: Mapping[str, float]) -> Path:
    """Draw both curves over the steps, with the real held-out digits as lines."""
    from himar_export.bench.plots import BLUE, GREY, ORANGE, panels, save

    figure, (distance, recognised) = panels(2, height=3.4)
    steps = [point["step"] for point in points]
    for axes, name, factor, colour, marker in (
        (distance, "distance", 1.0, BLUE, "o"),
        (recognised, "recognised", 100.0, ORANGE, "D"),
    ):
        axes.plot(steps, [factor * point["figures"][name] for point in points], marker, linestyle="-", color=colour)
        axes.axhline(factor * floor[name], color=GREY, linestyle="--", linewidth=1.2)
        axes.set_xlim(left=0)
        axes.set_xlabel("training steps")
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
    distance.set_title("Distance to real digits: lower is better")
    distance.set_ylabel("Fréchet distance, classifier's features")
    distance.set_yscale("log")
    distance.set_yticks([2, 5, 10, 20, 50, 100, 200, 500])
    distance.yaxis.set_major_formatter("{x:g}")
    distance.yaxis.minorticks_off()
    recognised.set_title("Shows the digit asked for: higher is better")
    recognised.set_ylabel("recognised, % of images")
    figure.suptitle(
        f"{points[0]['figures']['images']} images per point; dashed: {floor['images']} real digits that nothing "
        f"was trained on",
        fontsize=9.5,
        color=GREY,
    )
    return save(figure, path)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


if __name__ == "__main__":
    sys.exit(run_cli(main))
