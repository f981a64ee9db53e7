"""Class labels of a request: read from a command line, and checked against a model's classes."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

MOST_LABELS = 1_000_000


def parse_labels(text: str) -> list[int]:
    """Read "0,3,5-9" as a list of labels.

    InputError names the part that is neither a number nor a range, and a list of more than a million labels.
    """
    labels: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?:-([0-9]{1,18}))?\s*", part)
        if match is None:
            raise InputError(f"{part.strip()!r} is neither a number nor a range; write for example 0,3,5-9.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= MOST_LABELS - len(labels):
            raise InputError(f"{part.strip()!r} makes it more than {MOST_LABELS} labels; ask for fewer at once.")
        if last < first:
            raise InputError(f"the range {part.strip()!r} runs backwards; write {last}-{first}.")
        labels += range(first, last + 1)
    return labels


def check_labels(labels: Sequence[int] | NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return labels as int64 (B,).

    Raises InputError: no list, an empty one, or a label that is not a whole number from 0 to classes-1.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray) or getattr(labels, "ndim", 1) == 0:
        raise InputError(f"labels is {labels!r}; give a list of class numbers, one per image.")
    if len(labels) == 0:
        raise InputError("labels is empty; give at least one class number.")
    return np.array([_label(label, place, classes) for place, label in enumerate(labels)], np.int64)


def _label(label: Any, place: int, classes: int) -> int:
    try:
        value = operator.index(label)
    except TypeError:
        value = -1
    if isinstance(label, bool | np.bool_) or not 0 <= value < classes:
        raise InputError(
            f"label {label!r} (number {place} of the list) is not a class of this model; "
            f"classes are the whole numbers 0 to {classes - 1}."
        )
    return value
