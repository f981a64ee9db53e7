"""Reads class labels of a request from a command line, and checks them against a model's classes."""

from __future__ import annotations

import difflib
import operator
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .shared.errors import InputError

MOST_LABELS = 1_000_000

_MOST_SHOWN = 5
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"][^,]*)?)\s*(?:,|$)')
_NUMBERS = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")


def parse_labels(text: str) -> list[int | str]:
    """Read "0,3,5-9,tabby cat" as a list of labels: class numbers, and names of classes as they stand.

    Digits and ranges of them are always numbers. A name that holds a comma or consists of digits stands in double
    quotes, a double quote inside it is written twice. InputError names the part that is neither a number, a range nor
    a name, and a list of more than a million labels.
    """
    labels: list[int | str] = []
    place = 0
    while True:
        match = _PART.match(text, place)
        if match is None:
            raise InputError(f"{text[place:].strip()!r} has an unclosed double quote; write two for a literal one.")
        if match[1] is not None:
            labels.append(match[1].replace('""', '"'))
        else:
            labels += _numbers_or_name((match[2] or "").strip(), MOST_LABELS - len(labels))
        place = match.end()
        if not match[0].endswith(","):
            return labels


def label_numbers(labels: Sequence[int | str], class_names: Sequence[str] | None, source: str) -> list[int]:
    """Return labels with every name replaced by its class's number; numbers stay as they are.

    class_names: of a model's classes, in their order, None where it does not know them; source: the model, in words.
    Raises InputError for a name that is none of them, with the nearest ones, or that several classes share.
    """
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(class_names or ()):
        numbers.setdefault(name, []).append(number)
    return [label if isinstance(label, int) else _number(label, numbers, source) for label in labels]


def named_class(text: str, classes: int, class_names: Sequence[str] | None) -> int:
    """Return the class that a text names: by its number, its name, or a beginning that is one name's alone.

    Digits are always a number. A name in the same letters comes first, then one that differs in the case of A to Z
    alone, then the beginnings, in any case. Raises InputError with the nearest names, or those that it could be.
    """
    wanted = text.strip()
    if not wanted:
        raise InputError("the class is empty; give the name or the number of one.")
    if wanted.isascii() and wanted.isdigit():
        if len(wanted) > 18 or int(wanted) >= classes:
            raise InputError(f"{wanted} is not a class of this model; classes are the numbers 0 to {classes - 1}.")
        return int(wanted)
    names = [(name, number) for number, name in enumerate(class_names or ()) if name]
    if not names:
        raise InputError(
            f"{wanted!r} is no number, and this model does not know its classes' names; give 0 to {classes - 1}."
        )
    folded = _folded(wanted)
    found = (
        [each for each in names if each[0] == wanted]
        or [each for each in names if _folded(each[0]) == folded]
        or [each for each in names if _folded(each[0]).startswith(folded)]
    )
    if len(found) == 1:
        return found[0][1]
    if not found:
        raise InputError(f"{wanted!r} is not a class of this model; {_nearest(wanted, [name for name, _ in names])}.")
    shown = ", ".join(f"{name!r} ({number})" for name, number in found[:_MOST_SHOWN])
    more = ", …" if len(found) > _MOST_SHOWN else ""
    raise InputError(f"{wanted!r} may be {len(found)} classes: {shown}{more}; write more of the name, or the number.")


def mistakable_number(labels: Sequence[int | str], class_names: Sequence[str] | None) -> str | None:
    """Return a warning about a label that was given as a number while another class has it as its name, or None."""
    names = list(class_names or ())
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < len(names) or names[label] == str(label):
            continue
        if str(label) in names:
            named = f", named {names[label]!r}" if names[label] else ""
            return (
                f"label {label} is class number {label}{named}; the class named '{label}' is number "
                f"{names.index(str(label))}: write '\"{label}\"' for that one."
            )
    return None


def check_labels(labels: Sequence[int] | NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return labels as int64 (B,).

    Raises InputError: no list, an empty one, or a label that is not a whole number from 0 to classes-1.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray) or getattr(labels, "ndim", 1) == 0:
        raise InputError(f"labels is {labels!r}; give a list of class numbers, one per image.")
    if len(labels) == 0:
        raise InputError("labels is empty; give at least one class number.")
    return np.array([_label(label, place, classes) for place, label in enumerate(labels)], np.int64)


def _numbers_or_name(part: str, room: int) -> Sequence[int | str]:
    match = _NUMBERS.fullmatch(part)
    if match is None:
        if not re.search(r"[^\W\d_]", part):  # without a letter it is a slip, for example 1-, 1.5 or nothing
            raise InputError(f"{part!r} is neither a number nor a range; write for example 0,3,5-9.")
        return [part]
    first, last = int(match[1]), int(match[2] or match[1])
    if last - first >= room:
        raise InputError(f"{part!r} makes it more than {MOST_LABELS} labels; ask for fewer at once.")
    if last < first:
        raise InputError(f"the range {part!r} runs backwards; write {last}-{first}.")
    return range(first, last + 1)


def _number(name: str, numbers: dict[str, list[int]], source: str) -> int:
    found = numbers.get(name, []) if name else []
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"the classes {', '.join(map(str, found))} of {source} are all named {name!r}; give a number.")
    if not any(numbers):
        raise InputError(
            f"{name!r} is neither a number nor a range, and {source} does not know its classes' names; write for "
            f"example 0,3,5-9."
        )
    raise InputError(f"{name!r} is not a class of {source}; {_nearest(name, list(numbers))}.")


def _nearest(name: str, names: Sequence[str]) -> str:
    """Return advice to who wrote a name that is none of these, which may be lists of synonyms with commas."""
    folded = {part.strip().casefold(): known for known in names if known for part in (*known.split(","), known)}
    near = dict.fromkeys(folded[key] for key in difflib.get_close_matches(name.casefold(), folded, n=6, cutoff=0.5))
    return f"the nearest names are {', '.join(map(repr, list(near)[:3]))}" if near else "give its number"


def _folded(name: str) -> str:
    """Return a name with the letters A to Z in lower case, and others as they are."""
    return name.translate(_LOWER)


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
