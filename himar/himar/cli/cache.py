"""Defines `himar cache-latents`: turns an image folder into the latents, or codes, that training reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from himar_kernels.shared.console import require_extra
from himar_kernels.shared.options import THREADS, NamedPath, device_option

from .notices import show_images, show_notice
from .options import config_option
from .progress import image_progress

if TYPE_CHECKING:
    from ..data.cache_index import CacheIndex
    from ..data.folder import ImageList
    from ..data.shard_writer import OnImages
    from ..training.processes import Processes

    Pace = tuple[int, int, int, str]
    Make = Callable[[ImageList, Pace, OnImages | None, Processes], CacheIndex]

_LISTED = 10


@click.command("cache-latents", epilog="Example: himar cache-latents imagenet/train --vae kl16.ckpt --out latents")
@click.argument("images", required=False, type=NamedPath())
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint, or HMAR's tokenizer.")
@click.option("--out", required=True, type=NamedPath(), help="Folder of the cache.")
@click.option(
    "--captions", type=NamedPath(), help="Captions of IMAGES as MS-COCO's, for a model from text; needs --text."
)
@click.option("--text", type=NamedPath(), help="Folder of the text tower (CLIP) and its tokenizer.")
@click.option("--img-size", type=click.IntRange(1, 16_384), help="Side of the crops in pixels.  [default: 256]")
@click.option("--config", callback=config_option, help="HMAR model whose scales the codes are for.  [by --img-size]")
@click.option(
    "--crops", type=click.IntRange(0, 1000), help="HMAR: random crops of an image; 0: the middle.  [default: 10]"
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    help="Of the stored moments and contexts. float16 takes half the disk and rounds each value by at most 1 part in "
    "2,048.  "
    "[default: float16]",
)
@click.option("--shard-size", default=1024, show_default=True, type=click.IntRange(min=1), help="Images per file.")
@click.option(
    "--batch", default=16, show_default=True, type=click.IntRange(1, 65_536), help="Images the VAE takes at once."
)
@click.option("--readers", default=4, show_default=True, type=THREADS, help="Threads decoding images.")
@click.option(
    "--device", default="cpu", show_default=True, callback=device_option, help="Where the VAE runs: cpu or cuda:0."
)
@click.option("--check", is_flag=True, help="Only hash the shards of --out against its index.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
def cache_latents_command(
    images: Path | None,
    vae: Path | None,
    out: Path,
    captions: Path | None,
    text: Path | None,
    img_size: int | None,
    config: str | None,
    crops: int | None,
    dtype: Literal["float16", "float32"] | None,
    shard_size: int,
    batch: int,
    readers: int,
    device: str,
    check: bool,
    as_json: bool,
) -> None:
    """Encode IMAGES for training: with a KL VAE at both scales, plain and flipped; with HMAR's tokenizer to codes.

    IMAGES is a folder with one subfolder per class, numbered in the order of their names (of their values, where all
    are whole numbers), or a text file with a path and a class number per line. A stopped run continues when it is
    started again; processes that torchrun starts share the work. Images that cannot be read are skipped and listed.
    Photos are rotated as their EXIF data say; transparent images get a white background. Codes are of several random
    crops of each image, as HMAR is trained on another one each time.

    With --captions IMAGES is the folder that a captions file describes (train2014 of captions_train2014.json). The
    contexts of all captions lie beside the latents, which are of the centre square alone, resized by Lanczos and not
    flipped.
    """
    require_extra("model", "torch", "safetensors")
    if check:
        if images is not None:
            raise click.UsageError("--check looks at --out alone; leave IMAGES out.")
        if any(option is not None for option in (config, crops, captions, text)):
            raise click.UsageError(
                "--config, --crops, --captions and --text say how to make a cache; leave them out with --check."
            )
        _check(out, vae, img_size, as_json)
        return
    if images is None or vae is None:
        raise click.UsageError("give IMAGES and --vae, or --check.")
    if (captions is None) != (text is None):
        raise click.UsageError("--captions and --text go together: the text tower encodes the captions.")
    from ..data.captions import read_captions
    from ..data.codes.cache import CROPS, holds_tokenizer
    from ..data.folder import list_images
    from ..data.released_cache import refuse_released_cache
    from ..device import use_threads
    from ..training.processes import announced_process

    use_threads()
    if holds_tokenizer(vae):
        if captions is not None:
            raise click.UsageError(f"--captions are for a KL VAE's latents, and {vae} is HMAR's tokenizer.")
        if dtype is not None:
            raise click.UsageError("--dtype is of a KL VAE's moments; codes are whole numbers: leave it out.")
        make = _codes(vae, out, img_size, config, CROPS if crops is None else crops)
    else:
        for option, value in (("config", config), ("crops", crops)):
            if value is not None:
                raise click.UsageError(f"--{option} is of HMAR's codes, and {vae} is not its tokenizer; leave it out.")
        make = _latents(vae, out, img_size or 256, dtype or "float16", text)
    refuse_released_cache(images)
    processes, own_device = announced_process(device)
    listed = list_images(images) if captions is None else read_captions(captions, images)
    if processes.first and captions is None:
        show_images(listed)
    with image_progress("images") if processes.first else nullcontext() as on_images:
        index = make(listed, (shard_size, batch, readers, own_device), on_images, processes)
    if processes.first:
        _report(out, index, [], as_json)


def _latents(vae: Path, out: Path, img_size: int, dtype: Literal["float16", "float32"], text: Path | None) -> Make:
    from ..data.cache import CacheSettings, cache_latents
    from ..data.captioned.cache import cache_captioned
    from ..data.captions import CaptionedList

    def make(images: ImageList, pace: Pace, on_images: OnImages | None, processes: Processes) -> CacheIndex:
        settings = CacheSettings(img_size, dtype, *pace)
        if text is not None and isinstance(images, CaptionedList):
            return cache_captioned(images, vae, text, out, settings, on_images, show_notice, processes)
        return cache_latents(images, vae, out, settings, on_images, show_notice, processes)

    return make


def _codes(vae: Path, out: Path, img_size: int | None, config: str | None, crops: int) -> Make:
    from himar_kernels.families.hmar import Scales

    from ..data.codes.cache import CodeSettings, cache_codes, released_scales
    from ..families.hmar.config import read_config

    values = {} if config is None else read_config(config)
    if config is not None and "patch_nums" not in values:
        raise click.UsageError(f"{config} does not say the scales of an HMAR model; give one that has patch_nums.")
    if config is None:
        img_size = img_size or 256
        scales = released_scales(img_size)
    else:
        scales = Scales(values["patch_nums"])

    def make(images: ImageList, pace: Pace, on_images: OnImages | None, processes: Processes) -> CacheIndex:
        return cache_codes(
            images,
            vae,
            scales,
            out,
            CodeSettings(crops, *pace),
            on_images,
            show_notice,
            processes,
            groups=values.get("vae_groups"),
            img_size=img_size,
        )

    return make


def _check(out: Path, vae: Path | None, img_size: int | None, as_json: bool) -> None:

    from ..data.cache_index import CacheError, damaged_shards, read_index, require_same
    from ..loading.checkpoint_files import weights_sha256

    index = read_index(out)
    require_same(out, index, vae_sha256=weights_sha256(vae) if vae else None, img_size=img_size)
    problems = damaged_shards(out, index)
    if not index.complete:
        problems.append(f"it is unfinished, {len(index.shards)} of {index.wanted_shards} shards")
    if not problems:
        from ..data.cache_reader import CachedLatents
        from ..data.captioned.cache import CachedCaptioned
        from ..data.codes.cache import CachedCodes

        {"latents": CachedLatents, "codes": CachedCodes, "captioned": CachedCaptioned}[index.kind](out)
    _report(out, index, problems, as_json)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise CacheError(f"{out} is not whole: {problems[0].rstrip('.')}{more}; make the cache again.")


def _report(out: Path, index: CacheIndex, problems: list[str], as_json: bool) -> None:
    if as_json:
        outcome = {
            "cache": str(out),
            "complete": index.complete,
            "images": index.count,
            "classes": len(index.class_names),
            "shards": len(index.shards),
            "img_size": index.img_size,
            "dtype": index.dtype,
            "vae_sha256": index.vae_sha256,
            "class_names": list(index.class_names),
            "unreadable_classes": list(index.unreadable_classes),
            "turned": index.turned,
            "transparent": index.transparent,
            "skipped": [{"path": entry.path, "reason": entry.reason} for entry in index.skipped],
            "problems": problems,
        }
        if index.kind == "codes":
            outcome |= {"patch_nums": list(index.patch_nums), "crops": index.crops}
        if index.kind == "captioned":
            outcome |= {"text_sha256": index.text_sha256, "context": list(index.context)}
        click.echo(json.dumps(outcome))
        return
    for entry in index.skipped[:_LISTED]:
        click.echo(f"skipped {entry.path}: {entry.reason}", err=True)
    if len(index.skipped) > _LISTED:
        click.echo(f"… and {len(index.skipped) - _LISTED} more, all in {out / 'index.json'}", err=True)
    for name in index.unreadable_classes:
        number = index.class_names.index(name)
        show_notice(f"class {number} ({name}) has no image: none of its files can be read")
    if not problems:
        changed = [(index.turned, "rotated by EXIF"), (index.transparent, "transparent, put on white")]
        changes = "".join(f", {count} {what}" for count, what in changed if count)
        what = "with captions" if index.kind == "captioned" else f"of {len(index.class_names)} classes"
        click.echo(
            f"{out}: {index.count} images {what} in {len(index.shards)} shards, {len(index.skipped)} skipped{changes}"
        )
