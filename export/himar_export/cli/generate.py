"""Defines `himar-export generate`: images of classes or texts from a bundle, to a PNG, a folder of PNGs or latents."""

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
    given_prompts,
    images_option,
    label_option,
    prompt_options,
    require_one_of,
    warn_truncated,
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
    callback=label_option,
    help="Classes: numbers, ranges and names, for example 1,10-19,cat.",
)
@prompt_options
@click.option(
    "--count", default=1, show_default=True, type=click.IntRange(1, MOST_LABELS), help="Images of each class or text."
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Same seed, same images.")
@sampling_options
@click.option(
    "--out", required=True, type=NamedPath(), callback=images_option,
    help=".png: one image, or a grid with a row per class or text; .npz: latents; otherwise a folder of PNGs.",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help=f"CPU threads of the engines; {THREADS_DEFAULT}.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def generate(
    bundle: Path,
    labels: list[int | str] | None,
    prompts: tuple[str, ...],
    prompts_file: list[str] | None,
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
    """Make images of classes, or of texts, with the engines of BUNDLE."""
    texts = given_prompts(prompts, prompts_file)
    require_one_of(labels, texts)
    request = GenerateRequest(
        bundle, labels, out, count, seed, sampling_name, guidance, changes, device, threads, texts
    )
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

    labels: class numbers and names; prompts: texts, of a model from text, None of one of classes; count: images of
    each; out: `.png`, `.npz` or a folder to create; sampling_name,
    guidance, changes: as for `Pipeline.generate`.
    """

    bundle: Path
    labels: list[int | str] | None
    out: Path
    count: int = 1
    seed: int = 0
    sampling_name: str | None = None
    guidance: float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int | None = None
    prompts: list[str] | None = None


def generate_images(request: GenerateRequest, advance: Callable[[str, float], None]) -> dict[str, Any]:
    """Generate, write, and return a summary: images, seconds of the generation alone, out; of prompts those cut, too.

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
        advance(str(event), event.done / event.total)

    what = _what(request, pipeline)
    start = time.perf_counter()
    result = pipeline.generate(
        **what,
        seed=request.seed,
        sampling=request.sampling_name,
        guidance=request.guidance,
        on_step=on_step,
        **request.changes,
    )
    seconds = time.perf_counter() - start
    _write(request, result, kind)
    summary = {"images": len(result.labels), "seconds": seconds, "out": str(request.out)}
    if request.prompts is None:
        return summary
    truncated = sorted({place // request.count for place in result.truncated})
    warn_truncated(truncated, pipeline.bundle.manifest.model.buffer)
    return {**summary, "truncated": truncated}


def _what(request: GenerateRequest, pipeline: Pipeline) -> dict[str, Any]:
    """Return the labels or prompts of the images, each as often as it is asked for."""
    if request.prompts is not None:
        return {"prompts": [prompt for prompt in request.prompts for _ in range(request.count)]}
    if pipeline.bundle.manifest.model.context_shape is not None:
        return {"labels": request.labels}  # refused, whatever the names of classes
    assert request.labels is not None  # or prompts
    numbers = chosen_labels(request.labels, pipeline.bundle.manifest.class_names, str(request.bundle))
    return {"labels": [label for label in numbers for _ in range(request.count)]}


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
