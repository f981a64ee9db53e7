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
from himar_kernels.families.registry import VAE_DECODER
from himar_kernels.families.sampling_options import sampling_options
from himar_kernels.labels import MOST_LABELS
from himar_kernels.shared.console import require_extra
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
from himar_runtime.bundle.manifest import Manifest

from ..files import require_new, write_npz
from ..report import print_json
from .progress import progress_bar

DEFAULT_CHUNK = 64
_ACTORS, _CHUNK = click.IntRange(1, 65_536), click.IntRange(1, 65_536)


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
@click.option(
    "--pixels", is_flag=True, help="With .npz: pixels (arr_0) in place of latents, as ADM's; `himar evaluate` reads it."
)
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help=f"CPU threads of the engines; {THREADS_DEFAULT}.")
@click.option(
    "--ray", metavar="ADDRESS",
    help="Work on a Ray cluster: HOST:PORT, auto, or local for this machine; the same command resumes (docs/ray.md).",
)  # fmt: skip
@click.option(
    "--actors", type=_ACTORS, help="With --ray: how many work; by default one per GPU, or per --threads CPUs."
)
@click.option(
    "--chunk", type=_CHUNK, help="With --ray: images of one part, which is resumed as a whole.  [default: 64]"
)
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
    pixels: bool,
    device: str,
    threads: int | None,
    ray: str | None,
    actors: int | None,
    chunk: int | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Make images of classes, or of texts, with the engines of BUNDLE."""
    texts = given_prompts(prompts, prompts_file)
    require_one_of(labels, texts)
    kind = out.suffix.lower()
    if pixels and kind != ".npz":
        raise click.UsageError(f"--pixels is for an .npz, and --out is {out}.")
    request = GenerateRequest(
        bundle, labels, out, count, seed, sampling_name, guidance, changes, device, threads, texts, pixels
    )
    if ray is None:
        _refuse_without_ray(actors=actors, chunk=chunk)
        with progress_bar(as_json) as advance:
            outcome = generate_images(request, advance)
    else:
        outcome = _on_ray(request, ray, actors, chunk or DEFAULT_CHUNK, as_json)
    if as_json:
        print_json(outcome)
    else:
        Console().print(
            f"{outcome['images']} {'images' if outcome['images'] > 1 else 'image'} in {outcome['seconds']:.1f} s "
            f"({outcome['seconds'] / outcome['images']:.3f} s each) → {outcome['out']}",
            highlight=False,
            markup=False,
        )


def _refuse_without_ray(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise click.UsageError(f"--{name} is for --ray ADDRESS; leave it out, or give both.")


def _on_ray(request: GenerateRequest, address: str, actors: int | None, chunk: int, as_json: bool) -> dict[str, Any]:
    if request.out.suffix.lower() == ".png":
        raise click.UsageError(f"--out is {request.out}, a single file; with --ray give a folder, or an .npz.")
    if ":" in request.device:
        raise click.UsageError(f"--device is {request.device}, but Ray chooses the GPUs; give --device cuda.")
    require_extra("ray", "ray", "pyarrow")
    from ..bulk.generate import generate_on_cluster

    with progress_bar(as_json) as advance:
        return generate_on_cluster(request, address, actors, chunk, advance)


@dataclass(frozen=True)
class GenerateRequest:
    """What to make.

    labels: class numbers and names; prompts: texts, of a model from text, None of one of classes; count: images of
    each; out: `.png`, `.npz` or a folder to create; sampling_name, guidance, changes: as for `Pipeline.generate`;
    pixels: an `.npz` holds these in place of latents.
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
    pixels: bool = False

    def require_decoder(self, manifest: Manifest) -> None:
        """Raise InputError where images are asked for and the bundle gives latents alone."""
        if (self.pixels or self.out.suffix.lower() != ".npz") and VAE_DECODER not in manifest.components:
            without = " without --pixels" if self.pixels else ""
            raise InputError(
                f"{self.bundle} has no VAE decoder, so it produces latents, not images; "
                f"use --out FILE.npz{without}, or build it again with --vae."
            )

    def shown(self, manifest: Manifest) -> dict[str, Any]:
        """Return the labels as numbers, or the prompts, each once, as the argument of `Pipeline.generate`.

        A name that is no class is wrong usage.
        """
        if self.prompts is not None:
            return {"prompts": self.prompts}
        if manifest.model.context_shape is not None:
            return {"labels": self.labels}  # refused, whatever the names of classes
        assert self.labels is not None  # or prompts
        return {"labels": chosen_labels(self.labels, manifest.class_names, str(self.bundle))}


def generate_images(request: GenerateRequest, advance: Callable[[str, float], None]) -> dict[str, Any]:
    """Generate, write, and return a summary: images, seconds of the generation alone, out; of prompts those cut, too.

    Image i of a request has index i, so label j's n-th image is the same whatever else is asked only for a fixed list
    of labels and count. Raises InputError for a request the bundle cannot fulfil.
    """
    kind = request.out.suffix.lower()
    require_new(request.out)
    pipeline = Pipeline.load(request.bundle, device=request.device, threads=request.threads)
    manifest = pipeline.bundle.manifest
    request.require_decoder(manifest)

    def on_step(event: StepProgress) -> None:
        advance(str(event), event.done / event.total)

    what: dict[str, Any] = {
        name: [each for each in shown for _ in range(request.count)] for name, shown in request.shown(manifest).items()
    }
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
    warn_truncated(truncated, manifest.model.buffer)
    return {**summary, "truncated": truncated}


def _write(request: GenerateRequest, result: Result, kind: str) -> None:
    if request.pixels:
        name = "arr_1" if request.prompts is None else "prompts"
        shown = result.labels if request.prompts is None else np.array([recipe.prompt for recipe in result.recipes])
        write_npz(request.out, {"arr_0": result.images, name: shown})
    elif kind == ".npz":
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
