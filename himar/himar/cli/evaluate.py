"""Defines `himar evaluate`: measures images, or those of a checkpoint, which it samples first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from himar_kernels.families.sampling_options import guidance_option
from himar_kernels.shared.console import require_extra
from himar_kernels.shared.files import require_writable_file
from himar_kernels.shared.options import SEED, NamedPath, device_option, npz_option

from .making import make, refuse_making, require_making
from .notices import show_notice, show_skipped
from .options import config_option, weights_option
from .progress import image_progress

if TYPE_CHECKING:
    from ..evaluation.clip_score import ClipScore, ClipScorer
    from ..evaluation.extractor import Extractor, OnImages
    from ..evaluation.image_sets import Changed
    from ..evaluation.measure import Report

_PATH = NamedPath()
_IMAGES, _AT_ONCE = click.IntRange(1, 10_000_000), click.IntRange(1, 65_536)


def _shard(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{text!r} is not I/N with I from 1 to N, for example 2/8.")
    return int(match[1]), int(match[2])


@click.command(
    epilog="Example: himar evaluate samples.npz --against VIRTUAL_imagenet256_labeled.npz --inception "
    "pt_inception-2015-12-05-6726825d.pth"
)
@click.argument("source", type=_PATH)
@click.option("--against", type=_PATH, help="Reference: image folder, .npz of images, or ADM's reference .npz.")
@click.option("--extractor", type=click.Choice(["inception", "digits"]), default="inception", show_default=True)
@click.option("--inception", type=_PATH, help="The FID weights, pt_inception-2015-12-05-6726825d.pth.")
@click.option(
    "--clip", type=_PATH, help="CLIP model's folder: score how well images show the prompts that stand beside them."
)
@click.option("--neighbours", "-k", default=3, show_default=True, type=click.IntRange(min=1), help="k of precision.")
@click.option("--batch", default=64, show_default=True, type=_AT_ONCE, help="Images per extractor or CLIP run.")
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu or cuda:0.")
@click.option(
    "--crop",
    type=click.IntRange(8, 8192),
    metavar="PIXELS",
    help="Of images in folders take the centre square, resized to so many pixels (Lanczos); 256 for MS-COCO.",
)
@click.option("--save-statistics", type=_PATH, callback=npz_option, help="Write SOURCE's statistics (.npz).")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
@click.option(
    "--images",
    type=click.IntRange(1, 10_000_000),
    help="Checkpoint: how many images to make; 50000 in papers.  [default with --captions: 30000]",
)
@click.option("--per-class", is_flag=True, help="Checkpoint: equally many images of every class (the default).")
@click.option("--random-classes", is_flag=True, help="Checkpoint: draw each image's class at random instead.")
@click.option(
    "--captions",
    type=_PATH,
    help="Model from text: captions as MS-COCO's JSON; one of each of --images images is drawn.",
)
@click.option("--compbench", type=_PATH, help="Model from text: file of T2I-CompBench's prompts, one a line.")
@click.option(
    "--images-per-prompt",
    type=click.IntRange(1, 100_000),
    help="With --compbench: images of each prompt.  [default: 10]",
)
@click.option("--text", type=_PATH, help="Model from text: folder of the text tower (CLIP) and its tokenizer.")
@click.option("--out", type=_PATH, help="Checkpoint: the .npz of the images; with --compbench their folder.")
@click.option(
    "--config", callback=config_option, help="Checkpoint: preset or JSON file; not needed for files that himar wrote."
)
@weights_option
@click.option("--vae", type=_PATH, help="Checkpoint: KL-VAE; by default NAME-vae.safetensors next to NAME.")
@click.option("--seed", type=SEED, help="Checkpoint: seed of the images.  [default: 0]")
@click.option("--guidance", type=float, callback=guidance_option, help="Checkpoint: scale of classifier-free guidance.")
@click.option("--chunk", type=_AT_ONCE, help="Checkpoint: images made at once and kept together.  [64]")
@click.option("--shard", callback=_shard, help="Checkpoint: make only part I of N, as I/N, and stop.")
@click.option("--merge", is_flag=True, help="Checkpoint: join the shards' images, make none.")
def evaluate(
    source: Path,
    against: Path | None,
    extractor: Literal["inception", "digits"],
    inception: Path | None,
    clip: Path | None,
    neighbours: int,
    batch: int,
    device: str,
    crop: int | None,
    save_statistics: Path | None,
    as_json: bool,
    **making: Any,
) -> None:
    """Measure images: FID, sFID, inception score, precision and recall, and the CLIP score of images from text.

    SOURCE is a folder of images, an ADM-style .npz, or a checkpoint, from which --images images are sampled first, into
    --out. Many processes can share that work (--shard 1/8 … 8/8, then --merge); a stopped one continues when it is
    started again. Images made by a bundle's engines are measured as a folder or .npz.

    A model from text makes images of --captions, or those of T2I-CompBench for its own scripts: --compbench PROMPTS.txt
    --out FOLDER. Both need --text. --clip scores images of captions, and an .npz with the texts of its images in the
    array prompts; alone, it needs no Inception weights.
    """
    require_extra("model", "torch", "safetensors")
    if extractor == "digits" and inception is not None:
        raise click.UsageError("--inception needs --extractor inception.")
    if making["per_class"] and making["random_classes"]:
        raise click.UsageError("--per-class and --random-classes exclude each other.")
    from ..loading.checkpoint_files import looks_like_checkpoint

    is_checkpoint = looks_like_checkpoint(source)
    asked = bool(against or save_statistics or inception or extractor == "digits")
    wants_features = asked or not (is_checkpoint or clip)
    if is_checkpoint:
        require_making(making, wants_features or clip is not None)
        if clip is not None and making["captions"] is None:
            raise click.UsageError("--clip scores images by their prompts; make them with --captions.")
    else:
        refuse_making(making, source)
    given = (None if is_checkpoint else source, against)
    if crop is not None and all(path.is_file() for path in given if path is not None):
        raise click.UsageError("--crop is for folders of images, and none is measured.")
    if not wants_features:
        _refuse_measuring(("neighbours",) if clip else ("neighbours", "batch"))
    from ..device import use_threads

    use_threads()
    # Before hours of sampling or features: what the measurement will need.
    features = _extractor(extractor, inception, device) if wants_features else None
    scorer = None if clip is None else _scorer(clip, None if is_checkpoint else source, device)
    if save_statistics is not None:
        require_writable_file(save_statistics)
    changed = None
    if features is not None:
        changed = _check_images(None if is_checkpoint else source, against, features, crop)
    if is_checkpoint:
        made = make(source, device, making)
        source = making["out"]
        if features is None and scorer is None:
            click.echo(json.dumps(made) if as_json else f"{made['written']}: {made['images']} images")
            return
    score = None if scorer is None else _score(source, scorer, batch)
    report = None
    if features is not None:
        report = _measure(source, against, features, neighbours, batch, device, crop, save_statistics)
        if changed is not None:
            report = replace(report, turned=changed.turned, transparent=changed.transparent)
    if as_json:
        values = {"source": str(source)} if report is None else report.to_dict()
        click.echo(json.dumps(values if score is None else {**values, "clip": score.to_dict()}))
        return
    if report is not None:
        _show(report)
    if score is not None:
        _show_score(source, score)


def _refuse_measuring(names: tuple[str, ...]) -> None:
    """Refuse options of a measurement where images are only made."""
    source = click.get_current_context().get_parameter_source
    for name in names:
        if source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is for measuring; add --against or --extractor digits, or leave it out.")


def _extractor(kind: str, inception: Path | None, device: str) -> Extractor:
    if kind == "digits":
        from ..evaluation.digits_extractor import DigitsExtractor

        return DigitsExtractor(device=device)
    from himar_kernels import CheckpointError

    from ..evaluation.inception import WEIGHTS_FILE, InceptionExtractor

    if inception is None:
        raise CheckpointError(
            f"the Inception features need the weights file {WEIGHTS_FILE}; get it from the pytorch-fid project's "
            f"releases and give it with --inception, or use --extractor digits for digits."
        )
    return InceptionExtractor(inception, device)


def _scorer(folder: Path, source: Path | None, device: str) -> ClipScorer:
    """Load the CLIP model, and check that images which are there already have prompts."""
    from ..evaluation.clip_score import ClipScorer, read_image_prompts
    from ..evaluation.image_sets import open_images

    if source is not None:
        open_images(source)
        read_image_prompts(source)
    return ClipScorer(folder, device)


def _score(source: Path, scorer: ClipScorer, batch: int) -> ClipScore:
    from ..evaluation.clip_score import read_image_prompts
    from ..evaluation.image_sets import open_images

    with image_progress("CLIP score") as on_images:
        return scorer(open_images(source), read_image_prompts(source), batch, on_images)


def _check_images(source: Path | None, against: Path | None, extractor: Extractor, crop: int | None) -> Changed | None:
    """Read every file that will be measured, and say what is left out; return what was done to those of SOURCE."""
    from ..evaluation.image_sets import open_images
    from ..evaluation.measure import check_reference

    changed = None
    with _stages() as on_stage:
        if source is not None:
            images = open_images(source, crop)
            show_skipped(images.skipped)
            if images.files:
                changed = images.check(on_stage("checking the images"))
        if against is not None:
            reference = check_reference(against, extractor, on_stage("checking the reference"), crop)
            if reference is not None:
                show_skipped(reference.skipped)
    return changed


def _measure(
    source: Path,
    against: Path | None,
    extractor: Extractor,
    neighbours: int,
    batch: int,
    device: str,
    crop: int | None,
    save_statistics: Path | None,
) -> Report:
    from ..evaluation.image_sets import open_images
    from ..evaluation.measure import measure, open_reference, statistics_of
    from ..evaluation.statistics_files import write_statistics

    images = open_images(source, crop)
    with _stages() as on_stage:
        reference = open_reference(against, extractor, batch, on_stage, crop) if against else None
        report, features = measure(
            images, extractor, reference, k=neighbours, batch=batch, device=device, on_stage=on_stage
        )
    if save_statistics is not None:
        write_statistics(save_statistics, statistics_of(features), extractor.name, extractor.sha256)
    return report


@contextmanager
def _stages() -> Iterator[Callable[[str], OnImages | None]]:
    """Yield the `on_stage` of a measurement: one live line per stage."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def on_stage(stage: str) -> OnImages | None:
            stack.close()
            return stack.enter_context(image_progress(stage, "rows" if stage == "neighbours" else "img"))

        yield on_stage


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("measure")
    table.add_column("value", justify="right")
    rows = (
        ("FID", report.fid, ".3f"),
        ("sFID", report.sfid, ".3f"),
        ("inception score", report.inception_score, ".3f"),
        ("± over its parts", report.inception_score_deviation, ".3f"),
        ("precision", report.precision, ".4f"),
        ("recall", report.recall, ".4f"),
    )
    for name, value, form in rows:
        table.add_row(name, "-" if value is None else format(value, form))
    against = "no reference"
    if report.reference:
        count = "an unknown number of" if report.reference_images is None else str(report.reference_images)
        against = f"{report.reference}, {count} images"
    changed = [(report.turned, "rotated by EXIF"), (report.transparent, "transparent, put on white")]
    changes = "".join(f", {count} {what}" for count, what in changed if count)
    click.echo(f"{report.source}, {report.images} images{changes}, against {against}")
    click.echo(f"features: {report.extractor}, sha256 {report.extractor_sha256[:12]}…")
    Console(highlight=False).print(table)
    for warning in report.warnings:
        click.echo(f"warning: {warning}.", err=True)


def _show_score(source: Path, score: ClipScore) -> None:
    of_paper = 2.5 * score.score / score.scale
    click.echo(f"{source}, {score.images} images with prompts, CLIP model of sha256 {score.clip_sha256[:12]}…")
    click.echo(f"CLIP score {score.score:.3f} (mean of {score.scale:g}·max(cos, 0); with 2.5 {of_paper:.4f})")
    if score.cut:
        show_notice(
            f"longer than this CLIP model takes, so that their ends are cut: {score.cut} of {score.images} prompts"
        )
