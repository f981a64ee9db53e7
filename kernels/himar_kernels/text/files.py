"""Reads a tokenizer from a Hugging Face folder, an open_clip folder or a bundle, and writes it into a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..shared.errors import BundleError, CheckpointError, HimarError
from ..shared.files import file_sha256
from .vocabulary import END, MERGES_HEADER, START, WORD_END, Merge, Vocabulary, disagreement

DEFAULT_LENGTH = 77
_MOST_TOKENS = 1_000_000
"""More than that is no length: transformers writes 1e30 where a folder sets none."""
_PARTS = {"vocabulary": "tokenizer/vocab.json", "merges": "tokenizer/merges.txt"}


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read what a folder says of its tokenizer.

    folder: of Hugging Face, with vocab.json and merges.txt, or tokenizer.json alone; length and padding come from
    tokenizer_config.json, special_tokens_map.json, config.json and open_clip_config.json, where they are. Or a bundle
    whose manifest has a tokenizer.

    Raises CheckpointError, for a bundle BundleError: a file is missing or damaged, the vocabulary is another
    tokenizer's, or the files contradict each other.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; give one with vocab.json and merges.txt, one with tokenizer.json, or a bundle."
        )
    if (folder / "manifest.json").is_file():
        return _of_bundle(folder)
    return _of_folder(_Folder(folder))


def write_vocabulary(vocabulary: Vocabulary, root: Path) -> dict[str, Any]:
    """Write the files of a bundle's tokenizer below `root`; return the manifest's entry `tokenizer`."""
    for part, text in _texts(vocabulary).items():
        path = root / _PARTS[part]
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return {
        **_PARTS,
        "sha256": {part: file_sha256(root / path, BundleError) for part, path in _PARTS.items()},
        "length": vocabulary.length,
        "start": vocabulary.start,
        "end": vocabulary.end,
        "padding": vocabulary.padding,
        "repairs_text": vocabulary.repairs_text,
    }


def write_folder(vocabulary: Vocabulary, folder: Path) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json as Hugging Face has them, into a folder."""
    texts = _texts(vocabulary)
    padding = next(token for token, number in vocabulary.ids.items() if number == vocabulary.padding)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": vocabulary.length,
        **{"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(texts["vocabulary"], encoding="utf-8")
    (folder / "merges.txt").write_text(texts["merges"], encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _texts(vocabulary: Vocabulary) -> dict[str, str]:
    merges = "".join(f"{left} {right}\n" for left, right in vocabulary.merges)
    return {
        "vocabulary": json.dumps(vocabulary.ids, ensure_ascii=False) + "\n",
        "merges": f"{MERGES_HEADER}\n{merges}",
    }


@dataclass(frozen=True)
class _Folder:
    """A folder whose JSON files are read by name."""

    root: Path

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in a file, empty where there is none; CheckpointError for one that holds no object."""
        path = self.root / name
        return _object(path, CheckpointError) if path.is_file() else {}


def _of_folder(folder: _Folder) -> Vocabulary:
    whole, opened = folder.json("tokenizer.json"), folder.json("open_clip_config.json")
    source, ids, merges = _ids_and_merges(folder, whole)
    if problem := _id_problem(ids) or disagreement(ids, merges):
        raise CheckpointError(
            f"{source} and its merges are not one CLIP vocabulary: {problem}; take both from one CLIP model."
        )
    settings = folder.json("special_tokens_map.json") | folder.json("tokenizer_config.json")
    pad = _token(settings.get("pad_token"))
    added = [_token(each) for each in (*whole.get("added_tokens", ()), *_values(settings, "added_tokens_decoder"))]
    for token in (*added, pad):
        if token is not None and token not in ids:
            raise CheckpointError(
                f"{folder.root} adds the token {token!r} to CLIP's vocabulary, and himar reads CLIP's alone; give the "
                f"folder of the model without it."
            )
    for name, token in (("bos_token", START), ("eos_token", END)):
        if (found := _token(settings.get(name, token))) != token:
            raise CheckpointError(f"{folder.root}: {name} is {found!r}, and CLIP's is {token!r}; give a CLIP folder.")
    repairs = bool(opened) and not settings
    if repairs:
        _check_open_clip(folder.root, opened)
    if pad is None:
        pad = "!" if repairs else END
    return Vocabulary(tuple(merges), _length(folder, settings, opened), ids[pad], repairs)


def _ids_and_merges(folder: _Folder, whole: Mapping[str, Any]) -> tuple[Path, Any, list[Merge]]:
    """Return the vocabulary as it stands, its merges, and the file that it was read from."""
    apart = folder.root / "vocab.json", folder.root / "merges.txt"
    if all(path.is_file() for path in apart):
        return apart[0], _object(apart[0], CheckpointError), _merges(_text(apart[1], CheckpointError), apart[1])
    path = folder.root / "tokenizer.json"
    if not whole:
        raise CheckpointError(
            f"{folder.root} has neither vocab.json and merges.txt nor tokenizer.json; give the folder of a CLIP model."
        )
    model = whole.get("model")
    model = model if isinstance(model, dict) else {}
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") != WORD_END:
        raise CheckpointError(
            f"{path} holds a model of type {model.get('type')!r} and not CLIP's byte-pair encoding, whose words end in "
            f"{WORD_END}; give the folder of a CLIP model."
        )
    return path, model.get("vocab"), _merges(model.get("merges"), path)


def _merges(source: Any, path: Path) -> list[Merge]:
    """Read merges: a line "a b" each, or the list of a tokenizer.json, of such lines or of pairs."""
    lines = source.split("\n") if isinstance(source, str) else source if isinstance(source, list) else [source]
    merges = []
    for number, line in enumerate(lines):
        pair = line.split() if isinstance(line, str) else line
        if pair == [] or (number == 0 and isinstance(line, str) and line.startswith("#version")):
            continue
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise CheckpointError(f"{path}: merge {number} is {line!r} and not two tokens; fetch the file again.")
        merges.append((pair[0], pair[1]))
    return merges


def _id_problem(ids: Any) -> str:
    if not isinstance(ids, dict) or not all(type(number) is int for number in ids.values()):
        return "the vocabulary is no object of tokens and ids"
    return ""


def _check_open_clip(root: Path, opened: Mapping[str, Any]) -> None:
    text = _inner(_inner(opened, "model_cfg"), "text_cfg")
    rule = _inner(text, "tokenizer_kwargs").get("clean", "lower")
    if rule != "lower" or text.get("hf_tokenizer_name"):
        raise CheckpointError(
            f"{root / 'open_clip_config.json'} names another tokenizer ({text.get('hf_tokenizer_name') or rule}) than "
            f"open_clip's own with the rule 'lower'; himar reads that one alone."
        )


def _length(folder: _Folder, settings: Mapping[str, Any], opened: Mapping[str, Any]) -> int:
    """Return the tokens of a row, which every file that names them has to give alike; 77 where none does."""
    config = folder.json("config.json")
    named = {
        "tokenizer_config.json": settings.get("model_max_length"),
        "config.json": (_inner(config, "text_config") or config).get("max_position_embeddings"),
        "open_clip_config.json": _inner(_inner(opened, "model_cfg"), "text_cfg").get("context_length"),
    }
    lengths = {
        name: int(value)
        for name, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_TOKENS
    }
    if len(set(lengths.values())) > 1:
        said = " and ".join(f"{value} ({name})" for name, value in lengths.items())
        raise CheckpointError(f"{folder.root}: a prompt has {said} tokens; take all files from one model.")
    length = next(iter(lengths.values()), DEFAULT_LENGTH)
    if length < 2:
        raise CheckpointError(f"{folder.root}: a prompt has {length} tokens; it needs 2 at least, a start and an end.")
    return length


def _of_bundle(root: Path) -> Vocabulary:
    """Read the tokenizer of a bundle. What its numbers say is checked against its own files."""
    source = root / "manifest.json"
    entry = _object(source, BundleError).get("tokenizer")
    if entry is None:
        raise BundleError(
            f"{root} has no tokenizer: it takes class numbers or contexts; one of a model from text takes prompts if "
            f"it is built with `himar-export build --text FOLDER`."
        )
    try:
        paths = {part: _inside(entry[part], source) for part in _PARTS}
        for part, path in paths.items():
            if file_sha256(root / path, BundleError) != entry["sha256"][part]:
                raise BundleError(f"{root / path} does not have the manifest's sha256: it is damaged; copy it again.")
        ids = _object(root / paths["vocabulary"], BundleError)
        try:
            merges = _merges(_text(root / paths["merges"], BundleError), root / paths["merges"])
        except CheckpointError as error:
            raise BundleError(str(error)) from error
        vocabulary = Vocabulary(tuple(merges), entry["length"], entry["padding"], entry["repairs_text"])
        numbers = [entry[name] for name in ("length", "start", "end", "padding")]
        problem = _id_problem(ids) or disagreement(ids, merges)
        if not problem and numbers[1:3] != [vocabulary.start, vocabulary.end]:
            problem = f"start and end are {numbers[1:3]} and not {[vocabulary.start, vocabulary.end]}"
        if not problem and not (all(type(each) is int for each in numbers) and type(entry["repairs_text"]) is bool):
            problem = f"length, start, end, padding are {numbers} and repairs_text is {entry['repairs_text']!r}"
        if not problem and not (entry["length"] >= 2 and 0 <= entry["padding"] <= vocabulary.end):
            problem = f"length is {entry['length']} and padding {entry['padding']}"
        if problem:
            raise BundleError(f"{source}: its tokenizer is none: {problem}; build the bundle again.")
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{source}: tokenizer lacks {error}, or it has another type; build the bundle again."
        ) from error
    return vocabulary


def _inside(path: str, source: Path) -> str:
    if path.startswith("/") or ".." in PurePosixPath(path).parts or "\\" in path or ":" in path or "\0" in path:
        raise BundleError(f"{source} names the path {path!r}, which leads out of the bundle; refusing to load it.")
    return path


def _object(path: Path, error: type[HimarError]) -> dict[str, Any]:
    try:
        value = json.loads(_text(path, error))
    except (ValueError, RecursionError) as reason:
        raise error(f"{path} is not valid JSON ({reason}); fetch it again.") from reason
    if not isinstance(value, dict):
        raise error(f"{path} holds no JSON object; fetch it again.")
    return value


def _text(path: Path, error: type[HimarError]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}.") from reason
    except UnicodeDecodeError as reason:
        raise error(f"{path} is not UTF-8 text ({reason}); fetch it again.") from reason


def _inner(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _values(values: Mapping[str, Any], key: str) -> list[Any]:
    return list(_inner(values, key).values())


def _token(value: Any) -> str | None:
    """Return a token that stands as its text, or as an object with its `content`."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
