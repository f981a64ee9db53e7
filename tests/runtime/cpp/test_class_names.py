"""libhimar finds a class by what a person writes: a number, a name, a beginning; or it says what Python says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from himar_kernels import InputError
from himar_kernels.labels import named_class
from tests.runtime.conftest import write_bundle

NAMES = [
    "goldfish", "goldfinch", "tench, Tinca tinca", "Great White", "cock", "", "Straße", "jay", "JAY", "Jay",
    "ÉCLAIR", "éclair", "hen", "hen of the woods", "red fox, Vulpes vulpes", "kit fox, Vulpes macrotis", "Arctic fox",
    "3D printer", "aaaaaaaaab", "abab", "bab", "a, b, a b", "İstanbul", "ﬁnch", "ΣΊΣΥΦΟΣ", "sisyphus",
    *(f"sort {i}" for i in range(9)),
]  # fmt: skip
WRITTEN = [
    "", "  ", "0", " 4 ", "007", "40", "99999999999999999999", "-1", "1.5", "goldfish", "GOLDFISH", "gold", "goldfi",
    "tench", "tinca tinca", "Vulpes vulpes", "vulpes", "fox", "great", "jay", "JAY", "jAY", "ja", "strasse", "STRASSE",
    "straße", "eclair", "éclair", "ÉCLAIR", "Éclair", "hen", "he", "hen of", "sort", "sort 1", "3d", "finch", "a", "b",
    "a b", "istanbul", "σισυφος", "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "gold fish", "tenchh",
    "a cock on a roof", "qqqqq", "\U0001f600", "it's", "x" * 500, "goldfish " * 40, "ab" * 150,
]  # fmt: skip


def python(text: str, classes: int, names: list[str] | None) -> int | str:
    try:
        return named_class(text, classes, names)
    except InputError as error:
        return str(error)


@pytest.fixture(scope="module")
def named_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_bundle(tmp_path_factory.mktemp("named") / "bundle")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"].update(classes=len(NAMES), class_names=NAMES)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def misspelt(draw: random.Random) -> str:
    """A name with letters changed, left out, doubled and moved."""
    letters = list(draw.choice(NAMES))
    for _ in range(draw.randrange(1, 5)):
        place = draw.randrange(len(letters) + 1)
        letters[place : place + draw.randrange(3)] = draw.choice(["", "a", "s", "fo", " ", ",", "É", *letters])
    return "".join(letters)


def assert_same(library: Any, path: Path, names: list[str] | None, texts: list[str]) -> None:
    classes = json.loads((path / "manifest.json").read_text())["model"]["classes"]
    for text, found in zip(texts, library.classes(path, texts), strict=True):
        wanted = python(text, classes, names)
        if isinstance(wanted, str) and len(text) > 60:  # each cuts long values in its own way
            assert isinstance(found, str) and found.split("'")[-1] == wanted.split("'")[-1]
        else:
            assert found == wanted.replace('"it\'s"', "'it\\'s'") if isinstance(wanted, str) else found == wanted, text


def test_names_and_sentences_are_pythons(library: Any, named_path: Path) -> None:
    draw = random.Random(3)
    assert_same(library, named_path, NAMES, [*WRITTEN, *(misspelt(draw) for _ in range(400))])


def test_a_bundle_without_names_knows_numbers(library: Any, bundle_path: Path) -> None:
    assert_same(library, bundle_path, None, ["3", "4", "5", "three", ""])


def test_a_model_from_text_has_no_classes(library: Any, tiny_text_path: Path) -> None:
    assert library.classes(tiny_text_path, ["3"]) == [
        "this bundle's model makes images from text, so there are no classes; give prompts, or contexts."
    ]
