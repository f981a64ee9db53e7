"""Defines `himar sample` and `himar init`: images from the eager model, and random weights for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from himar_kernels.families.sampling_options import sampling_options
from himar_kernels.shared.console import require_extra
from himar_kernels.shared.options import SEED, FamilyCommand, NamedPath, chosen_labels, label_option, png_option

from .notices import show_notice
from .options import TRAINING_SEED, config_option, weights_option

if TYPE_CHECKING:
    from torch import Tensor

    from ..family import FamilyModel

_PATH = NamedPath()


@click.command(
    cls=FamilyCommand, epilog="Example: himar sample trained/digits.safetensors --labels 0-9 --seed 7 --out digits.png"
)
@click.argument("checkpoint", type=_PATH)
@click.option("--config", callback=config_option, help="Preset or JSON file; not needed for files that himar wrote.")
@weights_option
@click.option("--vae", type=_PATH, help="KL-VAE checkpoint; by default NAME-vae.safetensors next to NAME.")
@click.option(
    "--labels",
    callback=label_option,
    help="Classes, one image each: numbers, ranges and names, for example 0,3,5-9,cat.",
)
@click.option("--prompt", "prompts", multiple=True, help="Model from text: a text, one image each; needs --text.")
@click.option("--text", type=_PATH, help="Folder of the text tower (CLIP) and its tokenizer.")
@click.option("--contexts", type=_PATH, help="Model from text: .npz with the texts' contexts (B, K, W), an image each.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the images.")
@sampling_options
@click.option("--columns", default=10, show_default=True, type=click.IntRange(min=1), help="Images per row.")
@click.option("--out", required=True, type=_PATH, callback=png_option, help="PNG file of all images in rows.")
def sample(
    checkpoint: Path,
    config: str | None,
    weights: str | None,
    vae: Path | None,
    labels: list[int | str] | None,
    prompts: tuple[str, ...],
    text: Path | None,
    contexts: Path | None,
    seed: int,
    columns: int,
    out: Path,
    sampling_name: str | None,
    guidance: float | None,
    **changes: Any,
) -> None:
    """Sample images with the eager model, without engines.

    A model of classes takes --labels. A model from text takes prompts and the folder of its text tower, or --contexts,
    what the tower makes of texts: the array `contexts` of an .npz file.
    """
    if (labels is not None) + bool(prompts) + (contexts is not None) != 1:
        raise click.UsageError("give one of --labels, --prompt and --contexts, as the model takes them.")
    if bool(prompts) != (text is not None):
        raise click.UsageError("--prompt and --text go together: the text tower encodes the prompts.")
    require_extra("model", "torch", "safetensors")
    from himar_kernels.shared.files import require_writable_file

    from ..data.contexts import read_contexts
    from ..device import use_threads
    from ..family import model_family, open_model
    from ..images import save_grid

    require_writable_file(out)
    use_threads()
    model, _ = open_model(checkpoint, config, weights=weights)
    family = model_family(model.family)
    decoder = family.load_vae(vae or checkpoint.with_name(f"{checkpoint.stem}-vae.safetensors"), model)
    numbers = None if labels is None else chosen_labels(labels, model.class_names, str(checkpoint))
    read = None if contexts is None else read_contexts(contexts)
    if text is not None:
        read = _encoded(text, prompts, model)
    sampling = family.choose_sampling(model, sampling_name, guidance, changes, "this model")
    images = family.images(model, decoder, numbers, seed=seed, sampling=sampling, contexts=read)
    save_grid(out, images, columns)
    click.echo(f"wrote {out}: {len(images)} images")


def _encoded(folder: Path, prompts: tuple[str, ...], model: FamilyModel) -> Tensor:
    """Return the prompts' contexts; on stderr a warning of a tower not the model's, and a note for each prompt cut."""
    from himar_kernels import InputError

    from ..text.encoder import TextEncoder

    if not getattr(model.config, "from_text", False):
        raise InputError("prompts were given, but this model makes images of classes; give --labels.")
    encoder = TextEncoder.open(folder)
    encoder.require_fit(model.config)
    if foreign := encoder.foreign_to(model):
        click.echo(f"warning: {foreign}", err=True)
    contexts, cut = encoder.encode(prompts)
    for place in cut:
        show_notice(f"prompt {place} has more than {encoder.tokenizer.length} tokens; what is beyond them is cut")
    return contexts


@click.command(epilog="Example: himar init --config himar-b --seed 0 --out random-b.safetensors")
@click.option(
    "--config", required=True, callback=config_option, help="Preset (himar-b, digits, hmar-d16, …) or JSON file."
)
@click.option("--seed", default=0, show_default=True, type=TRAINING_SEED, help="Seed of the weights.")
@click.option("--half", is_flag=True, help="Write float16, half the size.")
@click.option("--out", required=True, type=_PATH, help="A .safetensors file.")
def init(config: str, seed: int, half: bool, out: Path) -> None:
    """Write random weights in the released layout, to try an export at real size without a trained model.

    A model that needs an autoencoder of its own, as HMAR needs its tokenizer, gets one beside it: NAME-vae.safetensors.
    """
    require_extra("model", "torch", "safetensors")
    import torch

    from ..device import use_threads
    from ..family import family_of, model_family

    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{out} does not end in .safetensors.", param_hint="--out")
    use_threads()
    family = model_family(family_of(config))
    model, vae = family.random(config, seed)
    for part, path in ((vae, out.with_name(f"{out.stem}-vae.safetensors")), (model, out)):
        if part is not None:
            family.save(path, part, torch.float16 if half else torch.float32)
            count = sum(parameter.numel() for parameter in part.parameters())
            click.echo(f"wrote {path}: {count / 1e6:.1f} M parameters")
