"""Encodes prompts as CLIP's tokenizer does: lower-cased byte-pair encoding between a start and an end token.

The rules are those of transformers' CLIPTokenizer, on the `tokenizers` library that it runs on too.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..shared.errors import EngineError, InputError
from .files import read_vocabulary
from .vocabulary import END, START, WORD_END, Vocabulary

if TYPE_CHECKING:
    import tokenizers

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """CLIP's tokenizer with one vocabulary.

    vocabulary: merges and the rules of a row; length, start, end, padding: as in `Vocabulary`.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.length, self.padding = vocabulary.length, vocabulary.padding
        self.start, self.end = vocabulary.start, vocabulary.end

    @classmethod
    def open(cls, folder: str | Path) -> Tokenizer:
        """Open the tokenizer of a Hugging Face folder, an open_clip folder or a bundle; see `read_vocabulary`."""
        return cls(read_vocabulary(Path(folder)))

    def ids(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], list[int]]:
        """Encode prompts; return ids (n, length) and the indices of the prompts that were cut.

        A row is start, the prompt's tokens, end, then padding. Of a prompt that is too long the first length - 2 tokens
        stay. Raises InputError: no prompts, one that is not text, one that holds a start or end token as text;
        EngineError: a library that is needed is not installed.
        """
        rows, cut = self.rows(texts)
        table = np.full((len(rows), self.length), self.padding, np.int64)
        for place, row in enumerate(rows):
            table[place, : len(row)] = row
        return table, cut

    def rows(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Encode prompts as `ids` does, without padding; return a list for each, and the indices of those cut."""
        check_prompts(texts)
        plain = [_repaired(text) for text in texts] if self.vocabulary.repairs_text else list(texts)
        rows = [each.ids for each in self.library.encode_batch(plain, add_special_tokens=False)]
        room = self.length - 2
        return (
            [[self.start, *row[:room], self.end] for row in rows],
            [place for place, row in enumerate(rows) if len(row) > room],
        )

    @cached_property
    def library(self) -> tokenizers.Tokenizer:
        """The same rules as an object of `tokenizers`; EngineError where that is not installed."""
        parts = tokenizers_library()
        model = parts.models.BPE(
            vocab=self.vocabulary.ids,
            merges=list(self.vocabulary.merges),
            unk_token=END,
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
        )
        library: tokenizers.Tokenizer = parts.Tokenizer(model)
        library.normalizer = parts.normalizers.Sequence(
            [
                parts.normalizers.NFC(),
                parts.normalizers.Replace(parts.Regex(r"\s+"), " "),
                parts.normalizers.Lowercase(),
            ]
        )
        library.pre_tokenizer = parts.pre_tokenizers.Sequence(
            [
                parts.pre_tokenizers.Split(parts.Regex(_WORDS), behavior="removed", invert=True),
                parts.pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        return library


def check_prompts(texts: Sequence[str]) -> None:
    """Raise InputError: no prompts, one that is not text, one that holds a start or end token as text."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InputError(f"prompts is {texts!r}; give a list of texts, one per image.")
    if len(texts) == 0:
        raise InputError("prompts is empty; give at least one text.")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"prompt {place} is {text!r}, which is not text; write it as a string.")
        if problem := prompt_problem(text):
            raise InputError(f"prompt {place} {problem}.")


def prompt_problem(text: str) -> str:
    """Say why a text is no prompt and what to do, as "holds …; …" without a full stop; "" where it is one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half a character at {error.start} (a lone surrogate); write it as UTF-8"
    found = next((token for token in (START, END) if token in text), None)
    return "" if found is None else f"holds {found}, which would end or start it for the model; leave it out"


def tokenizers_library() -> Any:
    """Import `tokenizers`; EngineError, with what to install, where it is not there."""
    try:
        import tokenizers
    except ImportError as error:
        raise EngineError(
            "prompts are encoded by the library tokenizers, which is not installed here: pip install 'himar[text]'."
        ) from error
    return tokenizers


def _repaired(text: str) -> str:
    """Repair a prompt as open_clip does before it encodes: ftfy, HTML entities twice, lower case."""
    try:
        import ftfy
    except ImportError as error:
        raise EngineError(
            "this model's tokenizer repairs text with the library ftfy, which is not installed here: pip install ftfy."
        ) from error
    return html.unescape(html.unescape(ftfy.fix_text(text))).lower()
