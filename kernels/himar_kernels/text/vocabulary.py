"""Defines CLIP's vocabulary: its ids follow from the order of the merges alone.

256 bytes, each written as one printable character; the same 256 at the end of a word, with "</w>" behind them; the
result of every merge; start; end. (Radford et al. 2021, arXiv 2103.00020, and the released vocabulary of 49,408.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Merge = tuple[str, str]

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MERGES_HEADER = "#version: 0.2"
_PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))


@dataclass(frozen=True)
class Vocabulary:
    """Merges in their order, and how prompts become rows of ids.

    Attributes:
        length: tokens of a row, start and end among them.
        padding: id behind the end token.
        repairs_text: whether prompts go through ftfy and lose their HTML entities first, as open_clip's do.
    """

    merges: tuple[Merge, ...]
    length: int
    padding: int
    repairs_text: bool = False

    @property
    def ids(self) -> dict[str, int]:
        """Return the id of every token."""
        return clip_ids(self.merges)

    @property
    def start(self) -> int:
        """Return the id of the start token."""
        return 2 * 256 + len(self.merges)

    @property
    def end(self) -> int:
        """Return the id of the end token."""
        return self.start + 1


def byte_symbols() -> list[str]:
    """Return the 256 characters that stand for bytes, in the vocabulary's order."""
    return [*map(chr, _PRINTABLE), *map(chr, range(256, 256 + 256 - len(_PRINTABLE)))]


def clip_ids(merges: Sequence[Merge]) -> dict[str, int]:
    """Return token → id for merges in their order, start and end last."""
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + WORD_END for symbol in symbols), *map("".join, merges), START, END]
    return {token: number for number, token in enumerate(tokens)}


def disagreement(ids: Mapping[str, int], merges: Sequence[Merge]) -> str:
    """Say where a vocabulary's ids are not those of its merges; "" where they are CLIP's."""
    known = clip_ids(merges)
    for token in (START, END):
        if token not in ids:
            return f"the vocabulary lacks {token}"
    for left, right in merges:
        for part in (left, right):
            if part not in known:
                return f"the merge {left!r} + {right!r} takes {part!r}, which is no token"
    for token, number in known.items():
        if ids.get(token) != number:
            has = f"has the id {ids[token]}" if token in ids else "is missing"
            return f"{token!r} {has}, and by the merges' order its id is {number}"
    others = sorted(ids.keys() - known.keys(), key=lambda token: ids[token])
    return f"{others[0]!r}, id {ids[others[0]]}, is the result of no merge" if others else ""
