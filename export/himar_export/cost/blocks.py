"""Counts the work of transformer blocks of width C with feed-forwards of 4C, which all families share.

`held` is what the precision of the matmuls holds (`cost.Held`); the stream between blocks is float32.
"""

from __future__ import annotations

from .cost import FLOAT32, FLOATS, Held, Work, attention, matmul, passing


def block(rows: int, tokens: int, width: int, held: Held = FLOATS, seen: int | None = None) -> Work:
    """A transformer block over (rows, tokens, width): norms are fused into what follows, sums into what precedes.

    seen: positions that each token attends to; None is the tokens themselves.
    """
    work = matmul(rows * tokens, width, 3 * width, held.weight, FLOAT32, held.value)
    work += attention(rows, tokens if seen is None else seen, width, held.value, tokens)
    return work + _after_attention(rows * tokens, width, held)


def last_block(rows: int, tokens: int, read: int, width: int, held: Held = FLOATS) -> Work:
    """A block of whose (rows, tokens, width) only `read` positions of each row are read."""
    n = rows * read
    work = matmul(rows * tokens, width, 2 * width, held.weight, FLOAT32, held.value)
    work += matmul(n, width, width, held.weight, FLOAT32, held.value)
    work += attention(rows, tokens, width, held.value, read)
    return work + _after_attention(n, width, held)


def _after_attention(n: int, width: int, held: Held) -> Work:
    """A block's matmul after attention and its feed-forward, over n rows."""
    work = matmul(n, width, width, held.weight, held.value, FLOAT32) + passing(n * width)
    work += matmul(n, width, 4 * width, held.layer, FLOAT32, held.value)
    return work + matmul(n, 4 * width, width, held.layer, held.between, FLOAT32) + passing(n * width)
