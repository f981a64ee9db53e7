"""Prompts become the ids that transformers' CLIPTokenizer gives, on a vocabulary made here and on the recorded one."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from himar_export.cli import main
from himar_kernels import EngineError, InputError
from himar_kernels.text import Tokenizer
from himar_kernels.text.training import train_vocabulary
from himar_kernels.text.vocabulary import disagreement

from .captions import captions, hard_strings

GOLDEN = Path(__file__).parents[2] / "golden" / "clip-tokenizer"


@pytest.fixture(scope="module")
def tokenizer(vocabulary):
    return Tokenizer(vocabulary)


def test_ids_are_those_of_transformers_in_both_layouts(tokenizer, clip_folder, tmp_path):
    from transformers import CLIPTokenizer

    texts = [*captions(10_000, seed=1), *hard_strings()]
    assert len(set(hard_strings())) >= 250
    theirs = CLIPTokenizer.from_pretrained(clip_folder, model_max_length=77)
    wanted = theirs(texts, truncation=True)["input_ids"]
    rows, cut = tokenizer.rows(texts)
    assert rows == wanted
    assert 0 < len(cut) < len(texts) / 4 and all(len(rows[place]) == 77 for place in cut)
    theirs.save_pretrained(tmp_path)  # tokenizer.json alone, as transformers 5 writes
    assert not (tmp_path / "vocab.json").exists()
    again = Tokenizer.open(tmp_path)
    assert again.vocabulary == tokenizer.vocabulary
    some = texts[::50]
    padded = theirs(some, truncation=True, padding="max_length")["input_ids"]
    np.testing.assert_array_equal(again.ids(some)[0], padded)


def test_recorded_ids_hold():
    """The C++ tokenizer is judged by the same files."""
    texts, ids = (json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in ("texts", "ids"))
    assert Tokenizer.open(GOLDEN).rows(texts)[0] == ids
    assert len(texts) > 1000


def test_a_vocabulary_trained_on_texts_is_clips_in_layout_and_the_same_again(vocabulary):
    assert disagreement(vocabulary.ids, vocabulary.merges) == ""
    assert len(vocabulary.ids) == 1500 and vocabulary.padding == vocabulary.end == 1499
    assert train_vocabulary(captions(200, seed=5), 600) == train_vocabulary(captions(200, seed=5), 600)
    assert len(train_vocabulary(["aa"], 600).merges) == 1  # no more pairs
    with pytest.raises(InputError, match="of 513 tokens has no room for bytes, start and end; give 514 or more"):
        train_vocabulary(["a"], 513)
    with pytest.raises(InputError, match="rows of 2 tokens"):
        train_vocabulary(["a"], 600, length=2)


def test_rows_are_padded_and_cut_and_the_cut_is_told(vocabulary):
    tokenizer = Tokenizer(replace(vocabulary, length=6, padding=0))
    ids, cut = tokenizer.ids(["a 1", "1 2 3 4", "1 2 3 4 5"])
    a, one, two, three, four = (tokenizer.rows([text])[0][0][1] for text in "a1234")
    start, end = tokenizer.start, tokenizer.end
    assert ids.dtype == np.int64
    assert ids.tolist() == [[start, a, one, end, 0, 0], *[[start, one, two, three, four, end]] * 2]
    assert cut == [2]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "prompts is empty"),
        ("a cat", "prompts is 'a cat'; give a list"),
        (["a", 7], "prompt 1 is 7, which is not text"),
        (["a \ud800 b"], "prompt 0 holds half a character at 2"),
        (["b", "a <|endoftext|>"], r"prompt 1 holds <\|endoftext\|>, which would end or start it"),
        (["<|startoftext|>x"], r"prompt 0 holds <\|startoftext\|>"),
    ],
)
def test_what_is_no_prompt_is_refused(tokenizer, texts, said):
    with pytest.raises(InputError, match=said):
        tokenizer.ids(texts)


def test_text_is_repaired_where_the_vocabulary_says_so(vocabulary):
    plain, repairing = Tokenizer(vocabulary), Tokenizer(replace(vocabulary, repairs_text=True))
    for damaged, whole in (
        ("“a” dog’s", '"a" dog\'s'),
        ("a &amp;amp; b", "a & b"),
        ("cafÃ©", "café"),
        ("ΟΔΟΣ", "οδος"),
    ):
        assert repairing.rows([damaged]) == plain.rows([whole]) != plain.rows([damaged])


@pytest.mark.parametrize(
    ("library", "said"), [("tokenizers", r"pip install 'himar\[text\]'"), ("ftfy", "repairs text .* pip install ftfy")]
)
def test_a_missing_library_is_named(vocabulary, monkeypatch, library, said):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EngineError, match=said):
        Tokenizer(replace(vocabulary, repairs_text=True)).ids(["a"])


def test_the_command_prints_ids_and_says_what_it_cut(capsys, clip_folder, tokenizer, tmp_path):
    texts = ["a red dog", "1" * 80, "café"]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    assert main(["tokens", str(clip_folder), "--texts", str(tmp_path / "texts.json")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == tokenizer.rows(texts)[0]
    assert printed.err == "text 1 is cut to 77 tokens.\n"
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8-sig")  # with a byte order mark
    assert main(["tokens", str(clip_folder), "--texts", str(tmp_path / "texts.json")]) == 0
    assert capsys.readouterr().out == printed.out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}', "holds no JSON list"),
        ("[", "; write a list of texts."),
        ("[3]", "prompt 0 is 3"),
        (None, "cannot be read"),
    ],
)
def test_the_command_refuses_what_is_no_list_of_texts(capsys, clip_folder, tmp_path, content, said):
    path = tmp_path / "texts.json"
    if content is not None:
        path.write_text(content)
    assert main(["tokens", str(clip_folder), "--texts", str(path)]) == 1
    assert said in capsys.readouterr().err
