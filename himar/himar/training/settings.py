"""Defines what every family's training settings have, and how a step is computed, which changes nothing learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from himar_kernels import ConfigError

ImageOrder = Literal["draws", "epochs"]
Precision = Literal["fp32", "bf16", "fp16"]


class StepSchedule(Protocol):
    """What an optimiser's step asks for, by its number from 0; steps: length of the run; peak: the highest rate."""

    @property
    def steps(self) -> int:
        """Length of the run."""

    @property
    def peak(self) -> float:
        """Highest learning rate."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""


@runtime_checkable
class DecaySchedule(StepSchedule, Protocol):
    """A schedule that also changes the weight decay."""

    def weight_decay(self, step: int) -> float:
        """Return the weight decay of a step."""


class Settings(Protocol):
    """What the room asks of a family's training settings, a dataclass whose every field decides what is learned.

    family: its name in the registry; batch: images per step, over all processes; clip: largest gradient norm;
    snapshot_every: steps between snapshots, and the last step makes one too; order: "draws" takes every image at
    random, "epochs" shuffles all and takes each once; precision: of the networks' matmuls.
    """

    family: ClassVar[str]

    @property
    def schedule(self) -> StepSchedule:
        """Steps, learning rate and what else changes with the steps."""

    @property
    def batch(self) -> int:
        """See the class."""

    @property
    def clip(self) -> float:
        """See the class."""

    @property
    def snapshot_every(self) -> int:
        """See the class."""

    @property
    def order(self) -> ImageOrder:
        """See the class."""

    @property
    def precision(self) -> Precision:
        """See the class."""


def check_choices(**choices: tuple[object, Any]) -> None:
    """Raise ConfigError for a value that is none of its Literal's: name=(value, Literal)."""
    for name, (value, kind) in choices.items():
        if value not in get_args(kind):
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(get_args(kind))}.")


@dataclass(frozen=True)
class Execution:
    """How a step is computed; nothing here changes what is learned beyond rounding and which values dropout drops.

    device: "cpu", "cuda" or "cuda:0"; accumulate: parts that each process cuts its share of the batch into; recompute:
    recompute the transformer blocks' activations in the backward pass; compile: blocks through torch.compile; fsdp:
    shard weights, gradients and moments over the processes instead of copying them to each.
    """

    device: str = "cpu"
    accumulate: int = 1
    recompute: bool = False
    compile: bool = False
    fsdp: bool = False

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ConfigError(f"accumulate is {self.accumulate}; it must be at least 1.")

    def require_processes(self, count: int) -> None:
        """Raise ConfigError unless this many processes can train so."""
        if self.fsdp and count == 1:
            raise ConfigError("fsdp shards over several processes, and there is one; start with torchrun, or copy.")


def check_seed(seed: int) -> None:
    """Raise ConfigError unless a training can draw from this seed; later epochs count up from it."""
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed}; it must be a whole number from 0 to 2^63 - 1.")


def asked_steps(options: Mapping[str, Any], images: int, batch: int) -> dict[str, int]:
    """Return "steps" and "warmup" as far as options give them, in steps or epochs of so many images.

    options: batch, steps, epochs, warmup_steps and warmup_epochs, None where not given; batch: where they have none.
    """
    per_epoch = images / (options["batch"] or batch)
    found = {}
    if options["epochs"] is not None:
        found["steps"] = max(1, round(options["epochs"] * per_epoch))
    elif options["steps"] is not None:
        found["steps"] = options["steps"]
    if options["warmup_epochs"] is not None:
        found["warmup"] = round(options["warmup_epochs"] * per_epoch)
    elif options["warmup_steps"] is not None:
        found["warmup"] = options["warmup_steps"]
    return found
