"""Defines how a model family is trained: what the room asks of it, and what it finds ready.

Common to all families: state and resume, processes, accumulation, precision, files and their order. A family says what
a batch is, what of it is random, the loss, which parameters learn how, and what the files hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from himar_kernels import ConfigError
from himar_kernels.families.registry import FAMILIES, family_part

from .settings import Execution

if TYPE_CHECKING:
    from ..data.opening import Opening
    from .optimise import OnStep
    from .processes import Processes
    from .trainer import Trainer


@dataclass(frozen=True)
class Start:
    """Weights that a training begins with instead of new ones, and what names them when it is resumed."""

    model: nn.Module
    identity: str


@dataclass(frozen=True)
class Request:
    """What was asked of a training whatever its family: where it writes, how it runs, what it begins with.

    grid: images of the board's sample grid; keep: whether the weights of every snapshot stay; on_stage: is told each
    training's name before it begins, and may return a callback of its steps.
    """

    out: Path
    seed: int
    execution: Execution
    processes: Processes
    resume: bool
    released: bool
    board: bool
    grid: int
    keep: bool
    on_stage: Callable[[str], OnStep | None]
    start: Start | None


class Batch(Protocol):
    """A step's images and random numbers, all of them drawn on the CPU for the whole batch."""

    def part(self, images: slice, device: torch.device) -> tuple[Any, ...]:
        """Return what the network takes of some images, on a device."""
        ...


class Task(Protocol):
    """One training of one model; made by `TrainingFamily.task`, which has checked that the data fit.

    averaged: decay of the averaged weights, which are what the training is for; None where there are none.
    """

    averaged: float | None

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this data from others when a training is resumed, as plain values."""
        ...

    def begin(self, seed: int, start: nn.Module | None) -> None:
        """Set the model's first weights, new ones or those of `start`, and which of its parameters learn."""
        ...

    def groups(self) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups as `Optimiser` takes them."""
        ...

    def network(self) -> nn.Module:
        """Return the module that maps a batch's part to values (k,), means over its images, in half precision or not.

        It holds the model, so that wrappers around it see the whole computation.
        """
        ...

    def scaler(self, device: str) -> torch.amp.GradScaler | None:
        """Return the loss scale for float16, None for other precisions."""
        ...

    def draw(self, chosen: Tensor, epoch: int, needed: Collection[slice], generator: torch.Generator) -> Batch:
        """Draw a step's batch from a generator; values of images outside the `needed` parts are not looked at."""
        ...

    def loss(self, values: Tensor) -> Tensor:
        """Return what is minimised of the network's values."""
        ...

    def figures(self, values: Tensor) -> dict[str, float]:
        """Return what a step reports of the mean values over all processes."""
        ...

    def finish(self, model: Any) -> None:
        """Complete the model that a training is for, whole: what follows from its weights and is not learned itself."""
        ...

    def examples(self, model: Any, count: int) -> Tensor:
        """Return what the board's images, sampled with a finished model, show: classes (count,), or texts' contexts
        (count, K, W).
        """
        ...

    def released(self, trainer: Trainer) -> dict[str, Any]:
        """Return a checkpoint as the family's released trainer writes it; every process calls it."""
        ...


class TrainingFamily(Protocol):
    """How `himar train` trains a family.

    options: names of the command's options (as Python spells them) that not every family has, and this one has.
    """

    options: frozenset[str]

    def config(self, source: str, options: Mapping[str, Any]) -> Any:
        """Return the configuration of the model to train. Raises ConfigError, UsageError for options that clash."""
        ...

    def start(self, checkpoint: Path | None, config: Any, weights: str | None) -> Start | None:
        """Return a checkpoint's weights to begin with, None without one. Raises CheckpointError and ConfigError."""
        ...

    def open_data(self, source: Path, config: Any, vae: Path | None, opening: Opening) -> tuple[Any, nn.Module | None]:
        """Open a training's data, and the autoencoder where one is given; every image file is read before it returns.

        Raises CacheError, CheckpointError, ConfigError or InputError when they are missing or do not fit the model.
        """
        ...

    def settings(self, config: Any, images: int | None, options: Mapping[str, Any]) -> Any:
        """Return the released recipe's settings for so many images, with the options that were given.

        images: None for data that himar makes, digits or scenes, and their recipes. Raises ConfigError.
        """
        ...

    def train_made(self, data: str, config: Any, settings: Any, request: Request) -> Path:
        """Train on "digits" or "scenes" by the family's recipe, its autoencoder too; return the weights' file.

        Raises ConfigError for data that the model does not learn from.
        """
        ...

    def model(self, config: Any, settings: Any) -> Any:
        """Return a model (himar.family.FamilyModel) without values, to be trained."""
        ...

    def task(self, model: Any, data: Any, settings: Any) -> Task:
        """Return the training of a model. Raises InputError when the data do not fit it."""
        ...

    def blocks(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the model's repeated blocks, each of which is compiled by itself."""
        ...

    def shards(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the modules that are sharded by themselves, inner ones first; what runs as a whole is one of them."""
        ...


def training_family(name: str) -> TrainingFamily:
    """Return how a family is trained. Raises ConfigError for one that has no training."""
    if not FAMILIES[name].training:
        raise ConfigError(f"models of the family {name} are not trained by himar.")
    family: TrainingFamily = family_part(name, "training")
    return family


def trained_families() -> dict[str, TrainingFamily]:
    """Return every family that has a training, by name."""
    return {name: training_family(name) for name, modules in FAMILIES.items() if modules.training}
