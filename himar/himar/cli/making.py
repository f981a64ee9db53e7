"""Makes the images of a checkpoint for `himar evaluate`: of classes, of captions, or of T2I-CompBench's prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from himar_kernels.shared.files import require_writable_folder
from himar_kernels.shared.options import folder_option, npz_option

from .notices import show_notice
from .progress import image_progress

if TYPE_CHECKING:
    from ..family import FamilyModel
    from ..text.encoder import TextEncoder

_COUNTED_AT_ONCE = 10_000


def refuse_making(making: dict[str, Any], source: Path) -> None:
    """Raise click.UsageError where options of a checkpoint were given for images that are there already."""
    given = [name for name, value in making.items() if value is not None and value is not False]
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for checkpoints; {source} is not one.")


def require_making(making: dict[str, Any], measured: bool) -> None:
    """Raise click.UsageError unless the options say what a checkpoint makes, and no two of them contradict each other.

    measured: whether the images will be measured too.
    """
    captions, compbench, text = (making[name] is not None for name in ("captions", "compbench", "text"))
    if captions and compbench:
        raise click.UsageError("--captions and --compbench exclude each other: both say which prompts to take.")
    if text and not (captions or compbench):
        raise click.UsageError("--text encodes prompts; give them with --captions or --compbench.")
    if (captions or compbench) and not text:
        option = "captions" if captions else "compbench"
        raise click.UsageError(f"--{option} needs --text, the folder of the text tower that encodes its prompts.")
    for name in ("per_class", "random_classes"):
        if making[name] and text:
            raise click.UsageError(f"--{name.replace('_', '-')} is for models of classes, and prompts were given.")
    if compbench:
        _require_compbench(making, measured)
    elif making["images_per_prompt"] is not None:
        raise click.UsageError("--images-per-prompt belongs to --compbench; use --images.")
    elif making["out"] is None or (making["images"] is None and not captions):
        raise click.UsageError("a checkpoint needs --images (how many to make) and --out (an .npz file).")
    if making["shard"] and making["merge"]:
        raise click.UsageError("--shard makes images and --merge joins them; give one of the two.")
    if making["shard"] and measured:
        raise click.UsageError("--shard only makes images; measure them with --merge.")
    context = click.get_current_context()
    parameter = next(each for each in context.command.params if each.name == "out")
    (folder_option if compbench else npz_option)(context, parameter, making["out"])


def _require_compbench(making: dict[str, Any], measured: bool) -> None:
    if making["images"] is not None:
        raise click.UsageError("--images cannot be given with --compbench; use --images-per-prompt.")
    if making["out"] is None:
        raise click.UsageError("--compbench needs --out, the folder of its images.")
    if measured:
        raise click.UsageError(
            "--compbench only writes images, which its own scripts measure; leave out what asks for measures."
        )


def make(source: Path, device: str, making: dict[str, Any]) -> dict[str, Any]:
    """Make what `require_making` let through: all, a shard, or the merge of shards. Return what was written.

    Raises InputError, ConfigError and CheckpointError before the first image where anything does not fit.
    """
    from himar_kernels import InputError

    from ..device import usable_device
    from ..evaluation.compbench import PER_PROMPT, merge_pictures, picture_names
    from ..evaluation.samples import SampleRun, make_parts, merge_parts
    from ..family import model_family, open_model
    from ..loading.checkpoint_files import weights_sha256

    out: Path = making["out"]
    compbench: Path | None = making["compbench"]
    if out.exists():
        other = "remove it" if compbench else f"measure it with himar evaluate {out}"
        raise InputError(f"{out} exists; {other}, or choose another --out.")
    require_writable_folder(out.parent)
    names: list[str] = []
    prompts = None
    if compbench is not None:
        from himar_kernels.text.prompts_file import read_prompts

        listed, each = read_prompts(compbench), making["images_per_prompt"] or PER_PROMPT
        names = picture_names(listed, each, compbench)
        prompts = tuple(prompt for prompt in listed for _ in range(each))
    elif making["captions"] is not None:
        prompts = _drawn(making["captions"], making["images"], making["seed"] or 0)
    where = usable_device(device)
    model, entry = open_model(source, making["config"], weights=making["weights"])
    encoder = _encoder(source, model, making["text"], prompts)
    family = model_family(model.family)
    vae_file = making["vae"] or source.with_name(f"{source.stem}-vae.safetensors")
    vae = family.load_vae(vae_file, model)
    sampling = family.choose_sampling(model, None, making["guidance"], {}, f"the model of {source}")
    run = SampleRun(
        model_sha256=weights_sha256(source),
        vae_sha256=weights_sha256(vae_file),
        config={**model.config.to_dict(), "img_size": model.config.img_size},
        sampling=sampling.to_dict(),
        images=making["images"] if prompts is None else len(prompts),
        seed=making["seed"] or 0,
        per_class=prompts is None and not making["random_classes"],
        chunk=making["chunk"] or 64,
        weights=entry,
        prompts=prompts,
        text_sha256=None if encoder is None else encoder.sha256,
    )
    parts = out.with_name(f"{out.name}.parts")
    shard, shards = making["shard"] or (1, 1)
    if not making["merge"]:
        if encoder is not None:
            encoder.tower.to(where)
        with image_progress("sampling") as on_images:
            make_parts(run, model.to(where), vae.to(where), parts, shard, shards, on_images, encoder)
    if making["shard"]:
        own = sum(len(run.indices(part)) for part in range(shard - 1, run.parts, shards))
        return {"written": str(parts), "images": own, "shard": f"{shard}/{shards}"}
    if compbench is None:
        merge_parts(run, parts, out)
    else:
        merge_pictures(run, parts, names, out)
    return {"written": str(out), "images": run.images, "shard": None}


def _drawn(captions: Path, images: int | None, seed: int) -> tuple[str, ...]:
    from ..data.captions import read_texts
    from ..evaluation.caption_draws import IMAGES, draw_prompts

    return draw_prompts(read_texts(captions).captions, images or IMAGES, seed, str(captions))


def _encoder(source: Path, model: FamilyModel, folder: Path | None, prompts: Any) -> TextEncoder | None:
    """Open the text tower of a model from text, and say how many prompts are cut; None for a model of classes."""
    from himar_kernels import InputError

    from_text = getattr(model.config, "from_text", False)
    if folder is None:
        if from_text:
            raise InputError(f"{source} makes images from text; give --captions or --compbench, and --text.")
        return None
    if not from_text:
        raise InputError(f"{source} makes images of classes; leave prompts and --text out, or give a model from text.")
    from ..text.encoder import TextEncoder

    encoder = TextEncoder.open(folder)
    encoder.require_fit(model.config)
    if foreign := encoder.foreign_to(model):
        click.echo(f"warning: {foreign}", err=True)
    different = list(dict.fromkeys(prompts))
    cut = sum(
        len(encoder.tokenizer.rows(different[at : at + _COUNTED_AT_ONCE])[1])
        for at in range(0, len(different), _COUNTED_AT_ONCE)
    )
    if cut:
        show_notice(
            f"longer than the text tower's {encoder.tokenizer.length} tokens, so that their ends are cut: {cut} of "
            f"{len(different)} prompts"
        )
    return encoder
