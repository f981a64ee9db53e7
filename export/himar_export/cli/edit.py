"""Defines `himar-export edit`: a part of an image drawn anew, to a PNG or a folder of PNGs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from himar_kernels import InputError, to_sheet
from himar_kernels.arithmetic.editing import place_on_canvas
from himar_kernels.families.hi_mar import DILATION
from himar_kernels.families.sampling_options import sampling_options
from himar_kernels.labels import MOST_LABELS
from himar_kernels.shared.files import new_folder
from himar_kernels.shared.options import (
    SEED,
    THREADS,
    THREADS_DEFAULT,
    FamilyCommand,
    FamilyOption,
    NamedPath,
    chosen_labels,
    device_option,
    images_option,
    label_option,
    warn_truncated,
)
from himar_runtime import Pipeline, write_png
from himar_runtime import Progress as StepProgress
from himar_runtime.edit_files import read_image, read_mask

from ..files import require_new
from ..report import print_json
from .progress import progress_bar


def _class_option(context: click.Context, parameter: click.Parameter, text: str | None) -> int | str | None:
    """Read one class, a number or a name."""
    labels = label_option(context, parameter, text) or []
    if len(labels) > 1:
        raise click.BadParameter(f"{text!r} names {len(labels)} classes; give one.")
    return labels[0] if labels else None


def _place_option(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | str | None:
    """Read "centre" or "LEFT,TOP"."""
    if text is None or text == "centre":
        return text
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is neither centre nor LEFT,TOP in pixels, for example 64,0.")
    return int(parts[0]), int(parts[1])


def _edit_out_option(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    """Read a .png or a folder."""
    if path.suffix.lower() == ".npz":
        raise click.BadParameter(f"{path} ends in .npz, but an edit is an image; give a .png, or a folder.")
    return images_option(context, parameter, path)


@click.command(
    cls=FamilyCommand,
    epilog="Example: himar-export edit bundle --image cat.png --mask hole.png --class 207 --seed 7 --out edited.png",
)
@click.argument("bundle", type=NamedPath())
@click.option("--image", required=True, type=NamedPath(), help="Image to edit: PNG, JPEG, WebP, BMP or TIFF.")
@click.option(
    "--mask", type=NamedPath(),
    help="Image of the same size: white (128 or more) is drawn anew, black stays as it is. Only with --place it may be "
    "left out.",
)  # fmt: skip
@click.option(
    "--place", callback=_place_option, metavar="LEFT,TOP|centre",
    help="Out-painting: put a smaller image here on a canvas of the model's size, and draw the canvas around it too.",
)  # fmt: skip
@click.option(
    "--class", "label", callback=_class_option, metavar="CLASS",
    help="Class that the image is to show, a number or a name; without it what fits the rest is drawn.",
)  # fmt: skip
@click.option("--prompt", metavar="TEXT", help="In place of --class, of a model from text: what the image is to show.")
@click.option(
    "--dilation", cls=FamilyOption, family="Hi-MAR", type=click.IntRange(0),
    help=f"Rings of cells around the mask's that are drawn too.  [default: {DILATION}]",
)  # fmt: skip
@click.option(
    "--feather", default=0, show_default=True, type=click.IntRange(0),
    help="Pixels inside the mask's border over which what is drawn is blended in.",
)  # fmt: skip
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, MOST_LABELS), help="Variants to draw.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Same seed, same images.")
@sampling_options
@click.option(
    "--out", required=True, type=NamedPath(), callback=_edit_out_option,
    help=".png: one image, or a row of all variants; otherwise a folder of PNGs.",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help=f"CPU threads of the engines; {THREADS_DEFAULT}.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def edit(as_json: bool, sampling_name: str | None, **options: Any) -> None:
    """Draw a part of an image anew with the engines of BUNDLE: in-painting, out-painting, another class.

    White pixels of --mask are drawn, all others stay exactly as they are. Without --class or --prompt the drawing fits
    the rest of the image; with it the image is to show that class or text. The PNG carries its recipe.
    """
    if options["label"] is not None and options["prompt"] is not None:
        raise click.UsageError("--class and --prompt are both given; give the one that the model takes.")
    if options["mask"] is None and options["place"] is None:
        raise click.UsageError("Missing option '--mask'; only --place, which draws around a smaller image, needs none.")
    own = {field.name: options.pop(field.name) for field in fields(EditRequest) if field.name in options}
    request = EditRequest(**own, sampling_name=sampling_name, changes=options)
    with progress_bar(as_json) as advance:
        outcome = edit_image(request, advance)
    if as_json:
        print_json(outcome)
    else:
        Console().print(
            f"{outcome['images']} {'images' if outcome['images'] > 1 else 'image'} in {outcome['seconds']:.1f} s → "
            f"{outcome['out']}",
            highlight=False,
            markup=False,
        )


@dataclass(frozen=True)
class EditRequest:
    """What to edit.

    mask: None with `place` draws around the image alone; place: (left, top) of the image on a canvas of the model's
    size, or "centre"; label: class number or name, or None; count: variants; out: `.png` or a folder to create;
    prompt, dilation, feather, sampling_name, guidance, changes: as for `Pipeline.edit`.
    """

    bundle: Path
    image: Path
    mask: Path | None
    out: Path
    place: tuple[int, int] | str | None = None
    label: int | str | None = None
    prompt: str | None = None
    dilation: int | None = None
    feather: int = 0
    count: int = 1
    seed: int = 0
    sampling_name: str | None = None
    guidance: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int | None = None


def edit_image(request: EditRequest, advance: Callable[[str, float], None]) -> dict[str, Any]:
    """Edit, write, and return a summary: images, seconds of the drawing alone, out.

    Raises InputError for files and settings that do not fit each other or the bundle; nothing is written then.
    """
    require_new(request.out)
    image, mask = read_image(request.image), None if request.mask is None else read_mask(request.mask)
    pipeline = Pipeline.load(request.bundle, device=request.device, threads=request.threads)
    manifest = pipeline.bundle.manifest
    if request.place is not None:
        image, mask = _placed(image, mask, manifest.model.img_size, request.place)
    shown: dict[str, Any] = {}
    if request.prompt is not None:
        shown["prompts"] = [request.prompt] * request.count
    if request.label is not None:
        labels = chosen_labels([request.label], manifest.class_names, str(request.bundle), "--class")
        shown["labels"] = labels * request.count

    def on_step(event: StepProgress) -> None:
        advance(str(event), event.done / event.total)

    assert mask is not None
    start = time.perf_counter()
    result = pipeline.edit(
        [image] * request.count,
        mask,
        **shown,
        dilation=request.dilation,
        feather=request.feather,
        seed=request.seed,
        sampling=request.sampling_name,
        guidance=request.guidance,
        on_step=on_step,
        **request.changes,
    )
    seconds = time.perf_counter() - start
    assert result.images is not None
    if result.truncated:
        warn_truncated([0], manifest.model.buffer)
    if request.out.suffix.lower() == ".png":
        write_png(request.out, to_sheet(result.images, request.count), result.recipes)
    else:
        with new_folder(request.out) as folder:
            result.save(folder)
    return {"images": request.count, "seconds": seconds, "out": str(request.out)}


def _placed(
    image: NDArray[np.uint8], mask: NDArray[np.bool_] | None, side: int, place: tuple[int, int] | str
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the canvas with the image, and the mask of it: all around the image, and what a mask of its size marks."""
    height, width = image.shape[:2]
    left, top = ((side - width) // 2, (side - height) // 2) if isinstance(place, str) else place
    canvas, border = place_on_canvas(image, side, left, top)
    if mask is not None:
        if mask.shape != (height, width):
            raise InputError(
                f"the mask has {mask.shape[1]} × {mask.shape[0]} pixels, but the image has {width} × {height}; give a "
                f"mask of the image's size, or none."
            )
        border[top : top + height, left : left + width] |= mask
    return canvas, border
