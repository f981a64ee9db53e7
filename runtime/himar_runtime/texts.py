"""Holds the texts that a request's images are made from, as tokens or as contexts, and turns tokens into contexts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError
from himar_kernels.families.registry import TEXT_ENCODER
from himar_kernels.shared.errors import not_finite

if TYPE_CHECKING:
    from .engines.engine import Engine


@dataclass(frozen=True)
class Texts:
    """What B images are made from: texts as tokens int64 (B, K), or contexts float32 (B, K, W); the other is None.

    prompts: the texts; None of contexts. truncated: indices of the prompts that were cut at K tokens.
    """

    prompts: tuple[str, ...] | None = None
    tokens: NDArray[np.int64] | None = None
    contexts: NDArray[np.float32] | None = None
    truncated: tuple[int, ...] = ()

    def __len__(self) -> int:
        given = self.contexts if self.tokens is None else self.tokens
        return 0 if given is None else len(given)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Texts:
        """Return some of them; which were truncated is known of all of them together alone."""
        places = range(len(self))[part] if isinstance(part, slice) else part.tolist()
        return Texts(
            None if self.prompts is None else tuple(self.prompts[place] for place in places),
            None if self.tokens is None else self.tokens[part],
            None if self.contexts is None else self.contexts[part],
        )

    def hashes(self) -> list[str | None]:
        """Return the SHA-256 of each context's float32 values, little-endian, as hex; None of each prompt."""
        if self.contexts is None:
            return [None] * len(self)
        return [hashlib.sha256(np.ascontiguousarray(each, "<f4").tobytes()).hexdigest() for each in self.contexts]

    def encoded(self, encoder: Engine | None) -> NDArray[np.float32]:
        """Return the contexts float32 (B, K, W); encoder: the text tower, which the tokens of prompts go through.

        Raises EngineError when it gives values that are not finite.
        """
        if self.contexts is not None:
            return self.contexts
        assert encoder is not None and self.tokens is not None  # checked before the request was queued
        # Equal prompts have equal contexts: a row of each is enough.
        different, place = np.unique(self.tokens, axis=0, return_inverse=True)
        contexts: NDArray[np.float32] = encoder.run({"tokens": different})["context"]
        if not np.isfinite(contexts).all():
            raise not_finite(TEXT_ENCODER)
        return contexts[place.reshape(-1)]


def check_contexts(contexts: Any, shape: tuple[int, int]) -> Texts:
    """Return contexts (B, K, W), as the model's text tower gives them, as Texts.

    Raises InputError: no array of that shape, none at all, or values that are no finite numbers.
    """
    K, W = shape
    wanted = f"give float32 (images, {K}, {W}), the last hidden state of the model's text tower"
    array = np.asarray(contexts) if isinstance(contexts, np.ndarray | Sequence) else None
    if array is None or array.dtype.kind != "f":
        kind = type(contexts).__name__ if array is None else f"of type {array.dtype}"
        raise InputError(f"contexts is {kind}; {wanted}.")
    if array.ndim != 3 or array.shape[1:] != shape or not len(array):
        raise InputError(f"contexts has shape {array.shape}; {wanted}, of at least one image.")
    values = array.astype(np.float32)
    finite = np.isfinite(values).all(axis=(1, 2))
    if not finite.all():
        raise InputError(f"context {int(np.argmin(finite))} holds values that are not finite; compute it again.")
    return Texts(contexts=values)
