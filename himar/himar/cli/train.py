"""Defines `himar train`: trains weights from images or latents."""

from __future__ import annotations

import functools
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from himar_kernels.shared.console import require_extra
from himar_kernels.shared.files import require_writable_folder
from himar_kernels.shared.options import (
    THREADS,
    THREADS_DEFAULT,
    FamilyCommand,
    FamilyOption,
    FiniteRange,
    NamedPath,
    device_option,
    wrong_usage,
)

from ..families.hi_mar.presets import VARIANTS
from .notices import show_images, show_notice
from .options import TRAINING_SEED, config_option, weights_option
from .progress import image_progress, training_progress

if TYPE_CHECKING:
    from torch import nn

    from ..training.family import Request, TrainingFamily
    from ..training.processes import Processes

# What a family takes is decided by its `options` (himar.training.family); these say so in the help.
_hi_mar = functools.partial(click.option, cls=FamilyOption, family="Hi-MAR")
_hmar = functools.partial(click.option, cls=FamilyOption, family="HMAR")

_WHOLE = click.IntRange(1, 10**12)
_COUNT = click.IntRange(0, 10**12)
_BATCH = click.IntRange(1, 2**20)
_SHARE = FiniteRange(0, 1)
_BELOW_ONE = FiniteRange(0, 1, max_open=True)
_POSITIVE = FiniteRange(min=0, min_open=True)
_EPOCHS = FiniteRange(0, 1e9, min_open=True)


@click.command("train", cls=FamilyCommand, epilog="Example: himar train --config digits --data digits --out trained")
@click.option("--config", required=True, callback=config_option, help="Preset (himar-b, hmar-d16, …) or JSON file.")
@click.option("--data", required=True, help="digits, a folder of cached latents or codes, or images: a folder or list.")
@click.option("--vae", type=NamedPath(), help="KL-VAE, or HMAR's tokenizer: encodes images, decodes sample grids.")
@click.option("--out", required=True, type=NamedPath(), help="Folder for weights and training state.")
@click.option("--start-from", type=NamedPath(), help="Checkpoint of the same sizes whose weights to start from.")
@weights_option
@click.option("--resume", is_flag=True, help="Continue from the state in --out; start anew if there is none.")
@click.option(
    "--epochs",
    type=_EPOCHS,
    help="Length in epochs.  [default: 800; from text 1 M steps; HMAR: 200 to 350, masked 100]",
)
@click.option("--steps", type=_WHOLE, help="Length in steps, instead of --epochs.")
@click.option("--warmup-epochs", type=FiniteRange(0, 1e9), help="Warm-up in epochs.  [default: 100; HMAR: 1/50 of all]")
@click.option("--warmup-steps", type=_COUNT, help="Linear warm-up in steps.")
@click.option(
    "--batch",
    type=_BATCH,
    help="Images per step over all processes.  [default: 2048; from text 256; HMAR: 768, d30 1024]",
)
@click.option(
    "--lr",
    "rate",
    type=_POSITIVE,
    help="Highest rate.  [default: 1e-4 × batch/256; from text 8e-4; d24, d30: 0.8e-4 ×]",
)
@click.option(
    "--weight-decay",
    type=FiniteRange(min=0),
    help="Of matrices.  [default: 0.02; from text 0.03; HMAR: 0.05, tables too]",
)
@click.option("--clip", type=_POSITIVE, help="Largest norm of the gradients.  [default: 3; HMAR: 2]")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the matmuls.  [default: fp32]")
@click.option("--accumulate", default=1, show_default=True, type=_BATCH, help="Parts of each process's batch.")
@click.option("--recompute", is_flag=True, help="Keep fewer activations: blocks run again in the backward pass.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the blocks with torch.compile.")
@click.option("--fsdp", is_flag=True, help="Shard weights and moments over torchrun's processes (himar-h, hmar-d30).")
@click.option("--device", default="cpu", callback=device_option, help="cpu (default), cuda:0; cuda under torchrun.")
@click.option("--snapshot-every", type=_WHOLE, help="Steps between snapshots.  [default: 1000; digits: 200]")
@click.option("--keep-snapshots", is_flag=True, help="Keep every snapshot's weights, as NAME-STEP.safetensors.")
@click.option("--released-layout", is_flag=True, help="Also write checkpoint-last.pth as the released code does.")
@click.option("--tensorboard", is_flag=True, help="Write scalars and sample grids to OUT/tensorboard.")
@click.option(
    "--grid", type=click.IntRange(0, 4096), help="Images of --tensorboard's sample grid.  [16 where there is a VAE]"
)
@click.option("--seed", default=0, show_default=True, type=TRAINING_SEED, help="Seed of weights, order and noise.")
@click.option("--threads", type=THREADS, help=f"CPU threads; {THREADS_DEFAULT}.")
@_hi_mar(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    metavar="NAME",
    help="A row of the paper's table 5 at the preset's sizes, for example visual.",
)
@_hi_mar("--ema", type=_BELOW_ONE, help="Decay of the averaged weights.  [default: 0.9999]")
@_hi_mar("--dropout", type=_BELOW_ONE, help="Of the transformer.  [default: 0.1]")
@_hi_mar("--pivot-share", type=_SHARE, help="Share of images whose phase high sees pivots.  [default: 0.25]")
@_hi_mar("--pivot-warmup", type=_COUNT, help="Epochs in which that share grows.  [default: 100]")
@_hmar(
    "--phase",
    type=click.Choice(["next-scale", "masked"]),
    help="Network to train; masked needs --start-from with the next-scale weights, which stay.  [default: next-scale]",
)
@_hmar(
    "--weighting",
    type=click.Choice(["lognorm", "equal", "plain"]),
    help="Of the scales in the next-scale loss.  [default: lognorm]",
)
@_hmar("--label-drop", type=_SHARE, help="Share of images trained without their class.  [default: 0.1]")
@_hmar("--depth-drop", type=_BELOW_ONE, help="Stochastic depth at the last block.  [default: depth/240]")
@_hmar("--lr-end", type=_SHARE, help="Share of --lr at the last step.  [default: 0.1; d24, d30: 0.01]")
@_hmar("--weight-decay-end", type=FiniteRange(min=0), help="At the last step.  [default: as before; d30: 0.08]")
@_hmar("--gate-init", type=_POSITIVE, help="Of the gates' weights.  [default: 1e-3; d24: 1e-4; d30: 1e-5]")
def train_command(
    config: str,
    data: str,
    vae: Path | None,
    out: Path,
    start_from: Path | None,
    weights: str | None,
    resume: bool,
    accumulate: int,
    recompute: bool,
    compiled: bool,
    fsdp: bool,
    device: str,
    keep_snapshots: bool,
    released_layout: bool,
    tensorboard: bool,
    grid: int | None,
    seed: int,
    threads: int | None,
    **changes: Any,
) -> None:
    """Train a model from new weights, or from a checkpoint's; with --data digits its VAE too.

    Defaults are the papers'. With --data digits they are those that trained the weights that himar ships, which takes
    about 40 minutes on two cores (hmar-digits: a quarter of that). HMAR is trained in two runs, first its next-scale
    network, then (--phase masked --start-from) the masked one over it; --data digits makes both. Several processes:
    torchrun --nproc-per-node 8 --no-python himar train … --device cuda. A stopped run continues with --resume as if it
    had not stopped.
    """
    digits = data == "digits"
    require_extra("model", "torch", "safetensors", *(["sklearn"] if digits else []))
    if digits and vae is not None:
        raise click.UsageError("--data digits trains its own VAE, or takes the one in --out; leave --vae out.")
    if not data or not (digits or os.path.exists(data)):  # noqa: PTH110 - a name too long does not exist either
        raise click.BadParameter(f"{data} is neither digits nor a path that exists.", param_hint="--data")
    for kind in ("epochs", "warmup_epochs"):
        steps = kind.replace("epochs", "steps")
        if changes[kind] is not None and changes[steps] is not None:
            options = f"--{kind} and --{steps}".replace("_", "-")
            raise click.UsageError(f"{options} were both given; give one of them.")
    if weights is not None and start_from is None:
        raise click.UsageError("--weights needs --start-from: it chooses among a checkpoint's weights.")
    if grid is not None and not tensorboard:
        raise click.UsageError("--grid needs --tensorboard.")
    if grid and not digits and vae is None:
        raise click.UsageError("--grid needs --vae, which decodes the images.")

    from ..device import use_threads
    from ..family import family_of
    from ..training.family import Request, training_family
    from ..training.processes import joined_processes
    from ..training.settings import Execution

    use_threads(threads)
    name = family_of(config)
    family = training_family(name)
    _refuse_others(name, config, changes)
    if digits and changes["phase"] is not None:
        raise click.UsageError("--data digits trains both phases; leave --phase out.")
    model_config = family.config(config, changes)
    require_writable_folder(out)
    start = family.start(start_from, model_config, weights)
    with joined_processes(device) as (processes, own_device), ExitStack() as stack:
        execution = Execution(own_device, accumulate, recompute, compiled, fsdp)
        with wrong_usage():
            execution.require_processes(processes.count)
        source = None if digits else Path(data)
        opened = (
            None if source is None else _open(family, source, model_config, vae, own_device, processes, out, resume)
        )
        request = Request(
            out,
            seed,
            execution,
            processes,
            resume,
            released_layout,
            tensorboard,
            16 if grid is None else grid,
            keep_snapshots,
            stack.enter_context(training_progress(processes.first)),
            start,
        )
        with wrong_usage():
            settings = family.settings(model_config, None if opened is None else len(opened[0].labels), changes)
            processes.parts(settings.batch, accumulate)
        if opened is None:
            written = family.train_digits(model_config, settings, request)
        else:
            written = _train(model_config, *opened, settings, request)
        stack.close()
        if processes.first:
            click.echo(f"{data}: wrote {written}")


def _refuse_others(name: str, config: str, changes: dict[str, Any]) -> None:
    """Raise UsageError for an option that another family's training has and this one's has not."""
    from ..family import model_family
    from ..training.family import trained_families

    families = trained_families()
    for option in sorted(frozenset().union(*(each.options for each in families.values())) - families[name].options):
        if changes[option] is not None:
            owners = " or ".join(
                model_family(other).title for other, each in families.items() if option in each.options
            )
            raise click.UsageError(
                f"--{_spelled(option)} is an option of {owners}, but {config} is a model of "
                f"{model_family(name).title}; leave it out."
            )


def _spelled(option: str) -> str:
    return option.replace("_", "-")


def _open(
    family: TrainingFamily,
    source: Path,
    config: Any,
    vae: Path | None,
    device: str,
    processes: Processes,
    out: Path,
    resume: bool,
) -> tuple[Any, nn.Module | None]:
    """Open the data, with what the first process says of it on stderr."""
    from ..data.opening import Opening
    from ..training.state import STATE_FILE, require_free

    state = out / STATE_FILE
    require_free(state, resume)
    opening = Opening(device, processes, state)
    if processes.first:
        checking = lambda: image_progress("checking the images")  # noqa: E731
        opening = Opening(device, processes, state, show_notice, show_images, checking)
    return family.open_data(source, config, vae, opening)


def _train(config: Any, data: Any, vae: nn.Module | None, settings: Any, request: Request) -> Path:
    from ..training.run import Outputs, run_training

    outputs = Outputs(request.out, released=request.released, board=request.board, grid=request.grid, keep=request.keep)
    return run_training(
        config,
        data,
        settings,
        request.seed,
        outputs,
        request.on_stage("model"),
        vae=vae,
        execution=request.execution,
        processes=request.processes,
        resume=request.resume,
        start=request.start,
    )
