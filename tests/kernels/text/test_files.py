"""A tokenizer's folder: what of it sets length, padding and repair, and what is refused."""

import json
from pathlib import Path

import pytest

from himar_kernels import BundleError, CheckpointError
from himar_kernels.text import Tokenizer
from himar_kernels.text.files import read_vocabulary, write_folder, write_vocabulary
from himar_kernels.text.training import LEAST_SIZE, train_vocabulary
from himar_kernels.text.vocabulary import Vocabulary


def put(folder: Path, **files) -> Path:
    """Write JSON files, "config" for config.json, over those of a folder."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    """The smallest CLIP folder: two merges."""
    write_vocabulary(Vocabulary((("a", "b</w>"), ("c", "ab</w>")), 77, 515), tmp_path)
    return tmp_path / "tokenizer"


@pytest.fixture
def bundle(folder) -> Path:
    """A folder whose manifest has a tokenizer; the rest of a bundle is nothing to it."""
    root = folder.parent
    put(root, manifest={"tokenizer": write_vocabulary(Vocabulary((("a", "b</w>"),), 9, 0, True), root)})
    return root


def rules(folder: Path) -> tuple[int, int, bool]:
    vocabulary = Tokenizer.open(folder).vocabulary
    return vocabulary.length, vocabulary.padding, vocabulary.repairs_text


OPEN_CLIP = {"model_cfg": {"text_cfg": {"context_length": 32}}}


def test_length_padding_and_repair_come_from_the_folder(folder):
    assert rules(folder) == (77, 515, False)
    assert rules(put(folder, config={"text_config": {"max_position_embeddings": 16}})) == (16, 515, False)
    assert rules(put(folder, config={"max_position_embeddings": 32})) == (32, 515, False)
    assert rules(put(folder, open_clip_config=OPEN_CLIP)) == (32, 0, True)
    assert rules(put(folder, special_tokens_map={"pad_token": "a"})) == (32, 64, False)
    settings = {"pad_token": {"content": "!"}, "model_max_length": 10**30}
    assert rules(put(folder, tokenizer_config=settings)) == (32, 0, False)


def test_a_tokenizer_json_with_merges_as_lines_is_read_as_one_with_pairs(folder):
    wanted = Tokenizer.open(folder).vocabulary
    ids = json.loads((folder / "vocab.json").read_text())
    for merges in (["a b</w>", "c ab</w>"], [["a", "b</w>"], ["c", "ab</w>"]]):
        model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": ids, "merges": merges}
        put(folder, tokenizer={"model": model})
        (folder / "vocab.json").unlink(missing_ok=True)
        assert Tokenizer.open(folder).vocabulary == wanted


def test_a_bundles_tokenizer_is_read_from_its_manifest(bundle):
    assert rules(bundle) == (9, 0, True)
    assert Tokenizer.open(bundle).vocabulary.merges == (("a", "b</w>"),)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"vocab": {"a": 0}}, r"lacks <\|startoftext\|>; take both from one CLIP model"),
        ({"vocab": []}, "vocab.json holds no JSON object"),
        ({"config": {"max_position_embeddings": 1}}, "1 tokens; it needs 2 at least"),
        ({"config": {"max_position_embeddings": -5}}, "-5 tokens; it needs 2 at least"),
        (
            {"config": {"max_position_embeddings": 32}, "tokenizer_config": {"model_max_length": 77}},
            r"77 \(tokenizer_config.json\) and 32 \(config.json\) tokens",
        ),
        ({"tokenizer_config": {"added_tokens_decoder": {"516": {"content": "<cat>"}}}}, "adds the token '<cat>'"),
        ({"special_tokens_map": {"pad_token": "[PAD]"}}, r"adds the token '\[PAD\]'"),
        ({"special_tokens_map": {"eos_token": "</s>"}}, r"eos_token is '</s>', and CLIP's is '<\|endoftext\|>'"),
        (
            {"open_clip_config": {"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}}},
            r"another tokenizer \(canonicalize\)",
        ),
    ],
)
def test_a_folder_of_another_tokenizer_is_refused(folder, files, said):
    with pytest.raises(CheckpointError, match=said):
        Tokenizer.open(put(folder, **files))


@pytest.mark.parametrize("length", [float("inf"), float("-inf"), float("nan"), -1e30, 1e30])
def test_a_length_that_is_no_length_counts_as_none(folder, length):
    put(folder, tokenizer_config={"model_max_length": length})
    assert Tokenizer.open(folder).length == 77


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda ids: ids | {"ab</w>": 514, "<|startoftext|>": 512},
            "'ab</w>' has the id 514, and by the merges' order",
        ),
        (lambda ids: ids | {"zz": 516}, "'zz', id 516, is the result of no merge"),
        (lambda ids: {token: number for token, number in ids.items() if token != "ab</w>"}, "'ab</w>' is missing"),
        (lambda ids: ids | {"a": "64"}, "no object of tokens and ids"),
    ],
)
def test_vocabulary_and_merges_have_to_belong_together(folder, change, said):
    put(folder, vocab=change(json.loads((folder / "vocab.json").read_text())))
    with pytest.raises(CheckpointError, match=said):
        Tokenizer.open(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#version: 0.2\na b</w>\nc abc</w>\n", "takes 'abc</w>', which is no token"),
        ("a b</w> c\n", "merge 0 is 'a b</w> c' and not two tokens"),
        ("#version: 0.2\na b</w>\n", "'cab</w>', id 513, is the result of no merge|has the id"),
    ],
)
def test_merges_have_to_be_whole(folder, text, said):
    (folder / "merges.txt").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        Tokenizer.open(folder)


def test_files_that_are_missing_or_damaged_are_named(folder):
    with pytest.raises(CheckpointError, match="is not a folder"):
        Tokenizer.open(folder / "none")
    (folder / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="is not UTF-8 text"):
        Tokenizer.open(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"has neither vocab.json and merges.txt nor tokenizer.json"):
        Tokenizer.open(folder)
    put(folder, tokenizer={"model": {"type": "WordPiece"}})
    with pytest.raises(CheckpointError, match="of type 'WordPiece' and not CLIP's byte-pair encoding"):
        Tokenizer.open(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        Tokenizer.open(folder)


def changed(bundle: Path, **values) -> Path:
    entry = json.loads((bundle / "manifest.json").read_text())["tokenizer"]
    return put(bundle, manifest={"tokenizer": entry | values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vocabulary": "../vocab.json"}, "leads out of the bundle"),
        ({"merges": "tokenizer/none.txt"}, "cannot be read"),
        ({"sha256": {"vocabulary": "0", "merges": "0"}}, "does not have the manifest's sha256"),
        ({"sha256": None}, "tokenizer lacks"),
        ({"length": "77"}, r"length, start, end, padding are \['77'"),
        ({"length": 1}, "length is 1 and padding 0"),
        ({"padding": 515}, "length is 9 and padding 515"),
        ({"start": 1}, r"start and end are \[1, 514\] and not \[513, 514\]"),
        ({"repairs_text": "no"}, "repairs_text is 'no'"),
    ],
)
def test_a_bundles_wrong_tokenizer_is_refused(bundle, values, said):
    with pytest.raises(BundleError, match=said):
        Tokenizer.open(changed(bundle, **values))


def test_a_bundle_without_a_tokenizer_says_that_it_takes_contexts(bundle):
    with pytest.raises(
        BundleError, match=r"it takes class numbers or contexts; .* it is built with `himar-export build --text FOLDER`"
    ):
        Tokenizer.open(put(bundle, manifest={}))


def test_a_folder_that_was_written_is_read_back(tmp_path):
    vocabulary = train_vocabulary(["a red three", "a red two"], LEAST_SIZE + 4, 16)
    write_folder(vocabulary, tmp_path / "text")
    assert read_vocabulary(tmp_path / "text") == vocabulary
