"""The C++ tokenizer gives the ids of the library tokenizers, by the program, for every folder that Python reads."""

from __future__ import annotations

import json
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_export.cli import main
from himar_kernels.text import Tokenizer
from tests.kernels.text.captions import captions, hard_strings

GOLDEN = Path(__file__).parents[2] / "golden" / "clip-tokenizer"


@pytest.fixture(scope="module")
def ids_of(run: Any, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ids by himar-generate, with what it said on stderr left out."""
    file = tmp_path_factory.mktemp("texts") / "texts.json"

    def ids(texts: list[str], folder: Path = GOLDEN) -> list[list[int]]:
        file.write_text(json.dumps(texts), encoding="utf-8")
        return json.loads(run(built / "examples" / "himar-generate", "--tokens", folder, "--texts", file))

    return ids


def test_recorded_ids_hold(ids_of: Any) -> None:
    texts, ids = (json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in ("texts", "ids"))
    assert ids_of(texts) == ids


def test_ids_are_those_of_tokenizers(ids_of: Any) -> None:
    texts = [*captions(10_000, seed=3), *hard_strings()]
    assert ids_of(texts) == Tokenizer.open(GOLDEN).rows(texts)[0]


def test_every_kind_of_character_splits_words_alike(ids_of: Any) -> None:
    """A sample of what Unicode had assigned by the version of Python's tables: utf8proc's may be later, or earlier."""
    random = np.random.default_rng(0)
    points = [point for point in random.choice(0x110000, 6000, replace=False) if not 0xD800 <= point < 0xE000]
    points += range(1, 0x600)
    assigned = [chr(point) for point in points if unicodedata.category(chr(point)) != "Cn"]
    texts = [f"ab{each}C1{each}! {each}'s" for each in assigned]
    texts += ["".join(random.choice(assigned, 8)) + "\u0301\u0323" for _ in range(1000)]
    assert ids_of(texts) == Tokenizer.open(GOLDEN).rows(texts)[0]


def test_merges_alone_and_tokenizer_json_alone_are_enough(ids_of: Any, tmp_path: Path) -> None:
    texts = ["a red cat", "a photo of two dogs on a table", "x " * 20]
    merges, whole = tmp_path / "merges", tmp_path / "whole"
    merges.mkdir()
    (merges / "merges.txt").write_bytes((GOLDEN / "merges.txt").read_bytes())
    assert ids_of(texts, merges) == ids_of(texts)
    whole.mkdir()
    vocabulary = Tokenizer.open(GOLDEN).vocabulary
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocabulary.ids, "merges": vocabulary.merges}
    (whole / "tokenizer.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    (whole / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 9}}))
    assert ids_of(texts, whole) == Tokenizer.open(whole).rows(texts)[0]
    assert len(ids_of(texts, whole)[2]) == 9


def test_the_program_prints_what_himar_export_prints(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(["a red cat", "cat " * 90, "\u00e9"]), encoding="utf-8")
    assert main(["tokens", str(GOLDEN), "--texts", str(file)]) == 0
    wanted = capsys.readouterr()
    program = built / "examples" / "himar-generate"
    command = [program, "--tokens", GOLDEN, "--texts", file]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == (wanted.out, wanted.err)
    assert wanted.err == "text 1 is cut to 77 tokens.\n"


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("[]", "prompts is empty; give at least one text."),
        ('["a", "b <|endoftext|>"]', "prompt 1 holds <|endoftext|>, which would end or start it for the model; leave"),
        ('["a", 3]', "prompt 1 is 3, which is not text; write it as a string."),
        (b'["a \xff"]', "is not valid JSON in UTF-8"),
        (r'["a \ud800 b"]', "is not valid JSON in UTF-8"),
        ("{}", "holds no JSON list; write the texts as one."),
    ],
)
def test_texts_that_cannot_be_encoded(run: Any, built: Path, tmp_path: Path, texts: Any, sentence: str) -> None:
    file = tmp_path / "texts.json"
    file.write_bytes(texts if isinstance(texts, bytes) else texts.encode())
    assert sentence in run(built / "examples" / "himar-generate", "--tokens", GOLDEN, "--texts", file, code=1)


def test_wrong_usage(run: Any, built: Path) -> None:
    program = built / "examples" / "himar-generate"
    assert "--tokens and --texts go together" in run(program, "--tokens", GOLDEN, code=2)
    assert "takes no bundle beside" in run(program, "x", "--tokens", GOLDEN, "--texts", "y", code=2)
    assert "cannot be read: No such file" in run(program, "--tokens", GOLDEN, "--texts", "/no/file", code=1)
    assert "has neither vocab.json and merges.txt nor tokenizer.json" in run(
        program, "--tokens", "/", "--texts", GOLDEN / "texts.json", code=1
    )
