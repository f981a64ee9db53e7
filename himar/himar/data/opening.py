"""Holds what opening a training's data takes in every family: where it runs, who shares it, whom it tells what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..training.processes import Processes
from .file_check import OnFiles
from .folder import ImageList, describe_classes, order_advice

Checking = Callable[[], AbstractContextManager[Any]]
"""Makes what shows the progress of reading files, a context of a callback of (done, all)."""


@dataclass(frozen=True)
class Opening:
    """Circumstances of opening a training's data.

    device: where the autoencoder runs; processes: this one's place among those that share the reading; state: file of
    a training that is resumed, if there is one; on_notice: gets a sentence on what a user should know; on_list: gets
    the images' list; checking: see `Checking`.
    """

    device: str = "cpu"
    processes: Processes = field(default_factory=Processes)
    state: Path | None = None
    on_notice: Callable[[str], None] = lambda text: None
    on_list: Callable[[ImageList], None] = lambda images: None
    checking: Checking = nullcontext


class Checked(Protocol):
    """Data whose files can be read once before a training begins."""

    def check(self, on_files: OnFiles | None, part: slice) -> None:
        """Read every file of a part. Raises InputError that names those that cannot be used."""


class Cached(Protocol):
    """Data that came out of a cache."""

    @property
    def class_names(self) -> Sequence[str]:
        """Of the class numbers."""

    @property
    def labels(self) -> Tensor:
        """Class of each image (n,)."""


def check_shared(data: Checked, processes: Processes, checking: Checking) -> None:
    """Read every file once, each process its share, and wait for all. Raises InputError."""
    with checking() as on_files:
        data.check(on_files, slice(processes.rank, None, processes.count))
    processes.wait()


def cache_notices(source: Path, cached: Cached) -> list[str]:
    """Return what a user should know of a cache: its classes, odd orders of them, and those without an image."""
    advice = order_advice(cached.class_names)
    found = set(cached.labels.unique().tolist())
    empty = [f"{number} ({name})" for number, name in enumerate(cached.class_names) if number not in found]
    return [
        describe_classes(cached.class_names),
        *([f"{source}: {advice}"] if advice else []),
        *([f"{source} has no image of class {', '.join(empty[:3])}{', …' if len(empty) > 3 else ''}"] if empty else []),
    ]
