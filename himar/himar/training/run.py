"""Runs a training and resumes it exactly, with its files: state, weights at every snapshot, TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from himar_kernels import CheckpointError
from himar_kernels.shared.files import remove_unfinished, require_writable_file, require_writable_folder

from ..data.order import Labelled, class_names_of
from ..family import model_family
from ..folder_lock import folder_lock
from ..loading.files import write_torch
from .board import open_board, require_board
from .family import Start, training_family
from .optimise import OnStep, Progress
from .processes import Processes
from .settings import Execution, Settings
from .state import STATE_FILE, load_state, require_free, require_tensors, save_state
from .trainer import Trainer

RELEASED_FILE, BOARD_FOLDER = "checkpoint-last.pth", "tensorboard"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """What a training writes to `folder`: its state, and the weights as `file` in `dtype`, averaged where they are.

    released: also `checkpoint-last.pth` as the family's released trainer writes it (docs/model.md §2,
    docs/hmar-model.md §2); board: also TensorBoard's files, with a grid of `grid` sampled images at every snapshot
    where that is not 0 and a VAE is there; keep: the weights of every snapshot stay, under names with its step
    (`kept`).
    """

    folder: Path
    file: str = "model.safetensors"
    dtype: torch.dtype = torch.float32
    released: bool = False
    grid: int = 0
    board: bool = False
    keep: bool = False

    def kept(self, step: int) -> Path:
        """Return where the weights of a snapshot stay, for example model-000200.safetensors."""
        path = self.folder / self.file
        return path.with_name(f"{path.stem}-{step:06d}{path.suffix}")


def run_training(
    config: Any,
    data: Labelled,
    settings: Settings,
    seed: int,
    outputs: Outputs,
    on_step: OnStep | None = None,
    *,
    vae: nn.Module | None = None,
    execution: Execution | None = None,
    processes: Processes | None = None,
    resume: bool = False,
    start: Start | None = None,
) -> Path:
    """Train new weights, or those of `start` on; write `outputs` and return the weights' file.

    vae: decodes the grid's images.

    Raises as `train_model` does; ConfigError when a board is asked for and TensorBoard is not installed or its folder
    cannot be made; CheckpointError when another run is writing to the folder. What can be refused is refused before the
    first step, and nothing is left then.
    """
    processes = processes or Processes()
    target, state = outputs.folder / outputs.file, outputs.folder / STATE_FILE
    if outputs.board:
        require_board(outputs.folder / BOARD_FOLDER)
    if outputs.folder.is_dir() and processes.first:
        for name in (outputs.file, *([RELEASED_FILE] if outputs.released else [])):
            require_writable_file(outputs.folder / name, CheckpointError)
    model = training_family(settings.family).model(config, settings)
    model.class_names = class_names_of(data, config.classes)
    trainer = prepare(
        model,
        data,
        settings,
        seed,
        execution=execution,
        processes=processes,
        state=state,
        resume=resume,
        start=start,
    )
    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(folder_lock(outputs.folder, CheckpointError))
            for name in (outputs.file, RELEASED_FILE):
                remove_unfinished(outputs.folder / name)
        board = None
        if outputs.board and processes.first:
            board = stack.enter_context(open_board(outputs.folder / BOARD_FOLDER))

        def report(progress: Progress) -> None:
            if board is not None:
                board.scalars(progress)
            if on_step:
                on_step(progress)

        def snapshot(trainer: Trainer) -> None:
            final, save = trainer.final_model(), model_family(settings.family).save
            if processes.first:
                save(target, final, outputs.dtype)
                if outputs.keep:
                    kept = outputs.kept(trainer.done)
                    remove_unfinished(kept)
                    save(kept, final, outputs.dtype)
            if outputs.released:
                content = trainer.task.released(trainer)
                if processes.first:
                    write_torch(outputs.folder / RELEASED_FILE, content)
            if board is not None and vae is not None and outputs.grid:
                board.grid(final, vae, trainer.task.examples(final, outputs.grid), trainer.done)
            _LOG.info("step %d: wrote %s", trainer.done, target)

        train(trainer, report, snapshot, state)
    return target


OnSnapshot = Callable[[Trainer], None]


def train_model(
    model: Any,
    data: Labelled,
    settings: Settings,
    seed: int,
    on_step: OnStep | None = None,
    on_snapshot: OnSnapshot | None = None,
    *,
    execution: Execution | None = None,
    processes: Processes | None = None,
    state: Path | None = None,
    resume: bool = False,
    start: Start | None = None,
) -> Any:
    """Train `model` from new weights and return what it is for, the averaged (EMA) model where
    there is one; a seed gives the same weights.

    Args:
        model: what to train, on the CPU; it holds the weights that are not averaged afterwards.
        data: what the family learns from; every process reads the whole batch's and works on its part.
        settings, seed: what decides the weights.
        on_step: told of every step, in the first process.
        on_snapshot: called with the trainer at every snapshot, in every process, before the state is written.
        execution: device, accumulation, compilation, sharding.
        processes: this one's place among those that train together.
        state: file that holds the run's state at its last snapshot; None keeps none.
        resume: continue from that file where it exists; the run is then bit for bit (on one CPU) unchanged.
        start: weights to begin with instead of new ones.

    Raises TrainingError when a loss or gradient stops being finite (the last state stays), and as `prepare` does.
    """
    trainer = prepare(
        model,
        data,
        settings,
        seed,
        execution=execution,
        processes=processes,
        state=state,
        resume=resume,
        start=start,
    )
    return train(trainer, on_step, on_snapshot, state)


def prepare(
    model: Any,
    data: Labelled,
    settings: Settings,
    seed: int,
    *,
    execution: Execution | None = None,
    processes: Processes | None = None,
    state: Path | None = None,
    resume: bool = False,
    start: Start | None = None,
) -> Trainer:
    """Check everything that can be checked before the first step, and return the trainer; nothing is written.

    Arguments are those of `train_model`.
    Raises InputError when the data do not fit, ConfigError when a resumed run
    is not the one that began or the batch does not divide, CheckpointError when the state cannot be read, is not of
    this training, could not be written, or exists and `resume` is off.
    """
    processes = processes or Processes()
    if state is not None and processes.first:
        require_writable_folder(state.parent, CheckpointError)
    if state is not None:
        require_free(state, resume)
    trainer = Trainer(model, data, settings, seed, execution or Execution(), processes, start)
    if state is not None and state.exists():
        loaded = load_state(state, trainer.run)
        require_tensors(loaded, trainer.layout(), settings.schedule.steps, state)
        trainer.load(loaded)
    return trainer


def train(
    trainer: Trainer, on_step: OnStep | None = None, on_snapshot: OnSnapshot | None = None, state: Path | None = None
) -> Any:
    """Run the steps that are left, as `train_model` says, and return the model it is for."""
    steps = trainer.settings.schedule.steps
    if state is not None and trainer.processes.first:
        remove_unfinished(state)
    if trainer.done == steps and on_snapshot:
        on_snapshot(trainer)  # A kill may have come between the last snapshot's files.
    while trainer.done < steps:
        progress = trainer.step()
        if on_step and trainer.processes.first:
            on_step(progress)
        if trainer.done % trainer.settings.snapshot_every == 0 or trainer.done == steps:
            if on_snapshot:
                on_snapshot(trainer)
            if state is not None:
                saved = trainer.state()
                if trainer.processes.first:
                    save_state(state, saved)
                trainer.processes.wait()
    return trainer.final_model()
