"""Trains a Hi-MAR model on latents, alone or in several processes, and goes on exactly where it stopped (§8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from himar_kernels import CheckpointError
from himar_kernels.files import remove_unfinished, require_writable_folder

from .model import HiMAR
from .optimise import OnStep
from .train_data import Latents
from .train_processes import Processes
from .train_settings import Execution, TrainingSettings
from .train_state import load_state, require_free, require_tensors, save_state
from .trainer import Start, Trainer

OnSnapshot = Callable[[Trainer], None]


def train_model(
    model: HiMAR,
    latents: Latents,
    settings: TrainingSettings,
    seed: int,
    on_step: OnStep | None = None,
    on_snapshot: OnSnapshot | None = None,
    *,
    execution: Execution | None = None,
    processes: Processes | None = None,
    state: Path | None = None,
    resume: bool = False,
) -> HiMAR:
    """Train `model` from new weights and return the averaged (EMA) model; a seed gives the same weights.

    Args:
        model: what to train, on the CPU; it holds the weights that are not averaged afterwards.
        latents: the data; every process reads the whole batch's and works on its part.
        settings, seed: what decides the weights.
        on_step: told of every step, in the first process.
        on_snapshot: called with the trainer at every snapshot, in every process, before the state is written.
        execution: device, accumulation, compilation, sharding.
        processes: this one's place among those that train together.
        state: file that holds the run's state at its last snapshot; None keeps none.
        resume: go on from that file where it exists; the run then is bit for bit (on one CPU) what it would have been.

    Raises TrainingError when a loss or gradient stops being finite (the last state stays), and as `prepare` does.
    """
    trainer = prepare(
        model, latents, settings, seed, execution=execution, processes=processes, state=state, resume=resume
    )
    return train(trainer, on_step, on_snapshot, state)


def prepare(
    model: HiMAR,
    latents: Latents,
    settings: TrainingSettings,
    seed: int,
    *,
    execution: Execution | None = None,
    processes: Processes | None = None,
    state: Path | None = None,
    resume: bool = False,
    start: Start | None = None,
) -> Trainer:
    """Check everything that can be checked before the first step, and return the trainer; nothing is written.

    Arguments are those of `train_model`; start: weights to begin with instead of new ones.
    Raises InputError when the latents do not fit, ConfigError when a resumed run
    is not the one that began or the batch does not divide, CheckpointError when the state cannot be read, is not of
    this training, could not be written, or exists and `resume` is off.
    """
    processes = processes or Processes()
    if state is not None and processes.first:
        require_writable_folder(state.parent, CheckpointError)
    if state is not None:
        require_free(state, resume)
    trainer = Trainer(model, latents, settings, seed, execution or Execution(), processes, start)
    if state is not None and state.exists():
        loaded = load_state(state, trainer.run)
        require_tensors(loaded, trainer.layout(), settings.schedule.steps, state)
        trainer.load(loaded)
    return trainer


def train(
    trainer: Trainer, on_step: OnStep | None = None, on_snapshot: OnSnapshot | None = None, state: Path | None = None
) -> HiMAR:
    """Run the steps that are left, as `train_model` says, and return the averaged model."""
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
    return trainer.averaged_model()
