"""Defines `himar train`: trains weights from images or latents."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from himar_kernels.shared.console import require_extra
from himar_kernels.shared.files import require_writable_folder
from himar_kernels.shared.options import THREADS, THREADS_DEFAULT, FiniteRange, NamedPath, device_option, wrong_usage

from ..families.hi_mar.presets import VARIANTS, vary
from .notices import show_images, show_notice
from .options import TRAINING_SEED, config_option, weights_option
from .progress import image_progress, training_progress

if TYPE_CHECKING:
    from ..data.latents import Latents
    from ..families.hi_mar.config import ModelConfig
    from ..training.optimise import OnStep
    from ..training.processes import Processes
    from ..training.settings import Execution, TrainingSettings
    from ..training.trainer import Start
    from ..vae.autoencoder import AutoencoderKL

_WHOLE = click.IntRange(1, 10**12)
_COUNT = click.IntRange(0, 10**12)
_BATCH = click.IntRange(1, 2**20)
_SHARE = FiniteRange(0, 1)
_BELOW_ONE = FiniteRange(0, 1, max_open=True)
_POSITIVE = FiniteRange(min=0, min_open=True)
_EPOCHS = FiniteRange(0, 1e9, min_open=True)


@click.command("train", epilog="Example: himar train --config digits --data digits --out trained")
@click.option("--config", required=True, callback=config_option, help="Preset (himar-b, mar-b, …) or JSON file.")
@click.option(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    metavar="NAME",
    help="A row of the paper's table 5 at the preset's sizes, for example visual.",
)
@click.option("--data", required=True, help="digits, a folder of cached latents, or images: a folder or list.")
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint: encodes images, decodes the sample grids.")
@click.option("--out", required=True, type=NamedPath(), help="Folder for weights and training state.")
@click.option("--start-from", type=NamedPath(), help="Checkpoint of the same sizes whose weights to start from.")
@weights_option
@click.option("--resume", is_flag=True, help="Continue from the state in --out; start anew if there is none.")
@click.option("--epochs", type=_EPOCHS, help="Length in epochs.  [default: 800]")
@click.option("--steps", type=_WHOLE, help="Length in steps, instead of --epochs.")
@click.option("--warmup-epochs", type=FiniteRange(0, 1e9), help="Linear warm-up in epochs.  [default: 100]")
@click.option("--warmup-steps", type=_COUNT, help="Linear warm-up in steps.")
@click.option("--batch", type=_BATCH, help="Images per step over all processes.  [default: 2048; digits: 64]")
@click.option("--lr", "rate", type=_POSITIVE, help="Learning rate.  [default: 1e-4 × batch/256]")
@click.option("--ema", type=_BELOW_ONE, help="Decay of the averaged weights.  [default: 0.9999]")
@click.option("--weight-decay", type=FiniteRange(min=0), help="Of the transformer's matrices.  [default: 0.02]")
@click.option("--clip", type=_POSITIVE, help="Largest norm of the gradients.  [default: 3]")
@click.option("--dropout", type=_BELOW_ONE, help="Of the transformer.  [default: 0.1]")
@click.option("--pivot-share", type=_SHARE, help="Share of images whose phase high sees pivots.  [default: 0.25]")
@click.option("--pivot-warmup", type=_COUNT, help="Epochs in which that share grows.  [default: 100]")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the matmuls.  [default: fp32]")
@click.option("--accumulate", default=1, show_default=True, type=_BATCH, help="Parts of each process's batch.")
@click.option("--recompute", is_flag=True, help="Keep fewer activations: blocks run again in the backward pass.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the blocks with torch.compile.")
@click.option("--fsdp", is_flag=True, help="Shard weights and moments over torchrun's processes (for himar-h).")
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
def train_command(
    config: str,
    variant: str | None,
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

    Defaults are the paper's. With --data digits they are those that trained the weights that himar ships, which takes
    about 40 minutes on two cores. Several processes: torchrun --nproc-per-node 8 --no-python himar train … --device
    cuda. A stopped run continues with --resume as if it had not stopped.
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
    from ..families.hi_mar.config import read_config, resolve
    from ..training.processes import joined_processes
    from ..training.settings import Execution

    use_threads(threads)
    values = read_config(config)
    model_config = resolve(values if variant is None else vary(values, variant), {}, config)
    for option in ("pivot_share", "pivot_warmup"):
        if model_config.single_scale and changes[option] is not None:
            spelled = option.replace("_", "-")
            raise click.UsageError(f"--{spelled} was given, but this model has a single scale and so no pivots.")
    require_writable_folder(out)
    start = None if start_from is None else _start(start_from, model_config, weights)
    with joined_processes(device) as (processes, own_device), ExitStack() as stack:
        execution = Execution(own_device, accumulate, recompute, compiled, fsdp)
        with wrong_usage():
            execution.require_processes(processes.count)
        opened = None if digits else _open(Path(data), model_config, vae, own_device, processes, out, resume)
        on_stage = stack.enter_context(training_progress(processes.first))
        run = _Run(
            out,
            seed,
            execution,
            processes,
            resume,
            released_layout,
            tensorboard,
            16 if grid is None else grid,
            keep_snapshots,
            on_stage,
            start,
            changes,
        )
        written = run.digits(model_config) if opened is None else run.images(model_config, *opened)
        stack.close()
        if processes.first:
            click.echo(f"{data}: wrote {written}")


def _open(
    source: Path,
    config: ModelConfig,
    vae: Path | None,
    device: str,
    processes: Processes,
    out: Path,
    resume: bool,
) -> tuple[Latents, AutoencoderKL | None]:
    """Open the data, with what the first process says of it on stderr."""
    from ..data.source import open_data
    from ..training.state import STATE_FILE, require_free

    require_free(out / STATE_FILE, resume)
    if not processes.first:
        return open_data(source, config, vae, device, processes=processes, state=out / STATE_FILE)
    return open_data(
        source,
        config,
        vae,
        device,
        processes=processes,
        state=out / STATE_FILE,
        on_notice=show_notice,
        on_list=show_images,
        checking=lambda: image_progress("checking the images"),
    )


def _start(checkpoint: Path, config: ModelConfig, weights: str | None) -> Start:
    from ..families.hi_mar.checkpoints import open_checkpoint
    from ..loading.checkpoint_files import weights_sha256
    from ..training.trainer import Start

    model, entry = open_checkpoint(checkpoint, config, weights=weights)
    return Start(model, " ".join(filter(None, (weights_sha256(checkpoint), entry))))


class _Run:
    """The options of one command, and the two kinds of data that they go with."""

    def __init__(
        self,
        out: Path,
        seed: int,
        execution: Execution,
        processes: Processes,
        resume: bool,
        released: bool,
        board: bool,
        grid: int,
        keep: bool,
        on_stage: Callable[[str], OnStep | None],
        start: Start | None,
        changes: dict[str, Any],
    ) -> None:
        self._out, self._seed, self._execution, self._processes = out, seed, execution, processes
        self._resume, self._released, self._board, self._grid = resume, released, board, grid
        self._keep = keep
        self._on_stage, self._start, self._changes = on_stage, start, changes

    def digits(self, config: ModelConfig) -> Path:
        """Train on the digits, by default with the shipped weights' settings."""
        from ..training.digits import DIGIT_IMAGES, Recipe, train_digits

        recipe = Recipe(seed=self._seed)
        settings = self._changed(recipe.model, DIGIT_IMAGES)
        return train_digits(
            self._out,
            config,
            recipe.with_model(settings),
            self._on_stage,
            execution=self._execution,
            processes=self._processes,
            resume=self._resume,
            released=self._released,
            board=self._board,
            grid=self._grid,
            keep=self._keep,
            start=self._start,
        )

    def images(self, config: ModelConfig, latents: Latents, vae: AutoencoderKL | None) -> Path:
        """Train on images or latents with the paper's settings."""
        from ..training.run import Outputs, run_training
        from ..training.settings import paper_settings

        count = len(latents.labels)
        settings = self._changed(paper_settings(count, self._changes["batch"] or 2048), count)
        outputs = Outputs(self._out, released=self._released, board=self._board, grid=self._grid, keep=self._keep)
        return run_training(
            config,
            latents,
            settings,
            self._seed,
            outputs,
            self._on_stage("model"),
            vae=vae,
            execution=self._execution,
            processes=self._processes,
            resume=self._resume,
            start=self._start,
        )

    def _changed(self, settings: TrainingSettings, images: int) -> TrainingSettings:
        """Apply the options that were given; epochs are counted in steps of this batch over that many images."""
        from ..training.settings import changed_settings

        changes = dict(self._changes)
        per_epoch = images / (changes["batch"] or settings.batch)
        epochs, warmup_epochs = changes.pop("epochs"), changes.pop("warmup_epochs")
        changes["warmup"] = changes.pop("warmup_steps")
        if epochs is not None:
            changes["steps"] = max(1, round(epochs * per_epoch))
        if warmup_epochs is not None:
            changes["warmup"] = round(warmup_epochs * per_epoch)
        with wrong_usage():
            changed = changed_settings(settings, **changes)
            self._processes.parts(changed.batch, self._execution.accumulate)
        return changed
