"""Trains a vocabulary of CLIP's kind on texts, for models whose tokenizer is their own.

Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909): the pair of neighbours that is most frequent becomes a
token, again and again. Pairs of one frequency are taken in the order of their text, so that the same texts give the
same vocabulary everywhere; the trainer of `tokenizers` takes them in an order that changes from run to run.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from ..shared.errors import InputError
from .files import DEFAULT_LENGTH
from .tokenizer import Tokenizer
from .vocabulary import WORD_END, Merge, Vocabulary, clip_ids

LEAST_SIZE = len(clip_ids(()))
"""Tokens of a vocabulary without merges: bytes, bytes at a word's end, start and end."""


def train_vocabulary(texts: Iterable[str], size: int, length: int = DEFAULT_LENGTH) -> Vocabulary:
    """Return the vocabulary whose merges are the most frequent of `texts`. Padding is the end token.

    size: of its tokens, fewer where the texts have no more pairs to merge; length: tokens of a row. Raises InputError
    for a size without room for bytes, start and end, and for a length without room for text.
    """
    if size < LEAST_SIZE:
        raise InputError(
            f"a vocabulary of {size} tokens has no room for bytes, start and end; give {LEAST_SIZE} or more."
        )
    if length < 3:
        raise InputError(f"rows of {length} tokens have no room between start and end; give 3 or more.")
    words = Counter(word for text in texts for word in _words(text))
    merges: dict[str, Merge] = {}
    for merge in _merges(words):
        if len(merges) == size - LEAST_SIZE:
            break
        merges.setdefault("".join(merge), merge)  # a second way to a token adds none
    return Vocabulary(tuple(merges.values()), length, LEAST_SIZE + len(merges) - 1)


def _words(text: str) -> list[str]:
    """Split a text as the tokenizer does; return each word in the characters that stand for its bytes."""
    library = _BLANK.library
    return [word for word, _ in library.pre_tokenizer.pre_tokenize_str(library.normalizer.normalize_str(text))]


def _merges(words: Counter[str]) -> Iterator[Merge]:
    """Yield the most frequent pair of neighbours, merged in all words before the next is looked for."""
    parts = [[*word[:-1], word[-1] + WORD_END] for word in words]
    weights = list(words.values())
    counts: Counter[Merge] = Counter()
    places: defaultdict[Merge, set[int]] = defaultdict(set)
    for place, part in enumerate(parts):
        for pair in pairwise(part):
            counts[pair] += weights[place]
            places[pair].add(place)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap:
        count, best = heapq.heappop(heap)
        if -count != counts[best]:  # an older count; the present one is pushed below, unless no such pair is left
            continue
        yield best
        changed: set[Merge] = set()
        for place in places.pop(best):
            before, after = parts[place], _merged(parts[place], best)
            for part, sign in ((before, -1), (after, 1)):
                for pair in pairwise(part):
                    counts[pair] += sign * weights[place]
                    places[pair].add(place)
                    changed.add(pair)
            parts[place] = after
        for pair in changed:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))


def _merged(part: list[str], pair: Merge) -> list[str]:
    merged: list[str] = []
    for symbol in part:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


_BLANK = Tokenizer(Vocabulary((), DEFAULT_LENGTH, LEAST_SIZE - 1))
