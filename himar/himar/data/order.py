"""Says which images a step takes, in an order that a seed repeats, and what any training set has: classes."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import torch
from torch import Tensor

from himar_kernels import InputError

from ..training.settings import Settings

_FINGERPRINT_IMAGES = 16


class Labelled(Protocol):
    """A training set of any family; it may also have `class_names`."""

    @property
    def labels(self) -> Tensor:
        """Class of each of the n images (n,), integers from 0."""


class ChosenImages:
    """Which images a step trains on: the same for the same settings, seed and step."""

    def __init__(self, count: int, settings: Settings, seed: int) -> None:
        self._count, self._batch, self._order, self._seed = count, settings.batch, settings.order, seed
        self._epoch, self._shuffled = -1, torch.empty(0, dtype=torch.long)

    def at(self, step: int, generator: torch.Generator) -> Tensor:
        """Return the images (B,) of a step; only the order "draws" draws from the generator."""
        if self._order == "draws":
            return torch.randint(self._count, (self._batch,), generator=generator)
        places = range(step * self._batch, (step + 1) * self._batch)
        return torch.stack([self._shuffle(place // self._count)[place % self._count] for place in places])

    def _shuffle(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed + 1_000_003 * (epoch + 1))
            self._epoch, self._shuffled = epoch, torch.randperm(self._count, generator=generator)
        return self._shuffled


def class_names_of(data: Labelled, classes: int | None = None) -> tuple[str, ...] | None:
    """Return the names of a data set's classes, None where it has none, as captioned images.

    classes: of a model; as many names come out, "" for classes that the data does not have.
    """
    names = getattr(data, "class_names", None)
    if not names:
        return None
    wanted = len(names) if classes is None else classes
    return (*names, *[""] * (wanted - len(names)))[:wanted]


def label_fingerprint(data: Labelled) -> dict[str, Any]:
    """Return what tells the classes of one data set from another's: its size, a hash of its labels, names if any."""
    labels = hashlib.sha256(data.labels.to(torch.int64).numpy().tobytes()).hexdigest()[:16]
    names = class_names_of(data)
    found = {"images": len(data.labels), "labels": labels}
    return found if names is None else {**found, "class_names": list(names)}


def some_images(data: Labelled) -> Tensor:
    """Return images (at most 16) from all over a data set, whose values tell it from another."""
    count = len(data.labels)
    return torch.linspace(0, count - 1, min(count, _FINGERPRINT_IMAGES), dtype=torch.float64).round().long()


def check_classes(data: Labelled, classes: int) -> None:
    """Raise InputError unless every label is a class of a model."""
    if not 0 <= int(data.labels.min()) <= int(data.labels.max()) < classes:
        raise InputError(
            f"labels run from {int(data.labels.min())} to {int(data.labels.max())}; "
            f"this model has the classes 0 to {classes - 1}."
        )
