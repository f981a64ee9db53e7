"""Defines `himar-export generate`: images of classes from a bundle, to a PNG, a folder of PNGs or latents."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from himar_kernels import InputError, to_sheet
from himar_kernels.families.sampling_options import sampling_options
from himar_kernels.labels import MOST_LABELS
from himar_kernels.shared.files import new_folder
from himar_kernels.shared.options import (
    SEED,
    THREADS,
    THREADS_DEFAULT,
    FamilyCommand,
    NamedPath,
    chosen_labels,
    device_option,
    images_option,
    label_option,
)
from himar_runtime import Pipeline, Result, write_png
from himar_runtime import Progress as StepProgress

from ..files import require_new, write_npz
from ..report import print_json
from .progress import progress_bar


@click.command(
    cls=FamilyCommand,
    epilog="Example: himar-export generate bundle --labels 207,360 --count 4 --seed 7 --out images.png",
)
@click.argument("bundle", type=NamedPath())
@click.option(
    "--labels",
    required=True,
    callback=label_option,
    help="Classes: numbers, ranges and names, for example 1,10-19,cat.",
)
@click.option(
    "--count", default=1, show_default=True, type=click.IntRange(1, MOST_LABELS), help="Images of each class."
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Same seed, same images.")
@sampling_options
@click.option(
    "--out", required=True, type=NamedPath(), callback=images_option,
    help=".png: one image, or a grid with a row per class; .npz: latents; otherwise a folder of PNGs.",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help=f"CPU threads of the engines; {THREADS_DEFAULT}.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def generate(
    bundle: Path,
    labels: list[int | str],
    count: int,
    seed: int,
    sampling_name: str | None,
    guidance: float | None,
    out: Path,
    device: str,
    threads: int | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Make images of classes with the engines of BUNDLE."""
    request = GenerateRequest(bundle, labels, out, count, seed, sampling_name, guidance, changes, device, threads)
    with progress_bar(as_json) as advance:
        outcome = generate_images(request, advance)
    if as_json:
        print_json(outcome)
    else:
        Console().print(
            f"{outcome['images']} {'images' if outcome['images'] > 1 else 'image'} in {outcome['seconds']:.1f} s "
            f"({outcome['seconds'] / outcome['images']:.3f} s each) → {outcome['out']}",
            highlight=False,
            markup=False,
        )


@dataclass(frozen=True)
class GenerateRequest:
    """What to make.

    labels: class numbers and names; count: images of each; out: `.png`, `.npz` or a folder to create; sampling_name,
    guidance, changes: as for `Pipeline.generate`.
    """

    bundle: Path
    labels: list[int | str]
    out: Path
    count: int = 1
    seed: int = 0
    sampling_name: str | None = None
    guidance: float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int | None = None


def generate_images(request: GenerateRequest, advance: Callable[[str, float], None]) -> dict[str, Any]:
    """Generate, write, and return a summary: images, seconds of the generation alone, out.

    Image i of a request has index i, so label j's n-th image is the same whatever else is asked only for a fixed list
    of labels and count. Raises InputError for a request the bundle cannot fulfil.
    """
    kind = request.out.suffix.lower()
    require_new(request.out)
    pipeline = Pipeline.load(request.bundle, device=request.device, threads=request.threads)
    if kind != ".npz" and "vae_decoder" not in pipeline.bundle.manifest.components:
        raise InputError(
            f"{request.bundle} has no VAE decoder, so it produces latents, not images; "
            f"use --out FILE.npz, or build it again with --vae."
        )

    def on_step(event: StepProgress) -> None:
        advance(f"phase {event.phase}, step {event.step + 1}", event.done / event.total)

    numbers = chosen_labels(request.labels, pipeline.bundle.manifest.class_names, str(request.bundle))
    labels = [label for label in numbers for _ in range(request.count)]
    start = time.perf_counter()
    result = pipeline.generate(
        labels,
        seed=request.seed,
        sampling=request.sampling_name,
        guidance=request.guidance,
        on_step=on_step,
        **request.changes,
    )
    seconds = time.perf_counter() - start
    _write(request, result, kind)
    return {"images": len(labels), "seconds": seconds, "out": str(request.out)}


def _write(request: GenerateRequest, result: Result, kind: str) -> None:
    if kind == ".npz":
        recipes = json.dumps([recipe.to_dict() for recipe in result.recipes])
        write_npz(
            request.out,
            {
                "latents": result.latents,
                **result.arrays,
                "labels": result.labels,
                "recipes": np.array(recipes),
            },
        )
    elif kind == ".png":
        assert result.images is not None
        write_png(request.out, to_sheet(result.images, request.count), result.recipes)
    else:
        with new_folder(request.out) as folder:
            result.save(folder)
