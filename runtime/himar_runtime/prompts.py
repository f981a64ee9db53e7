"""Turns a request's prompts into tokens with the tokenizer of a bundle, which is loaded when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from himar_kernels import InputError
from himar_kernels.families.registry import TEXT_ENCODER
from himar_kernels.text.tokenizer import Tokenizer

from .bundle.bundle import Bundle
from .texts import Texts


class Prompts:
    """The tokenizer of a bundle, shared by its lanes."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    def texts(self, prompts: Sequence[str]) -> Texts:
        """Return prompts as tokens.

        Raises InputError: a bundle that takes no prompts, no list, an empty one, what is no text or what the tokenizer
        refuses; BundleError for a damaged tokenizer, EngineError where its library is not installed.
        """
        tokens, truncated = self._loaded().ids(prompts)
        return Texts(tuple(prompts), tokens, truncated=tuple(truncated))

    def _loaded(self) -> Tokenizer:
        if TEXT_ENCODER not in self._bundle.manifest.components:
            raise InputError(
                f"{self._bundle.root} has no {TEXT_ENCODER}, so it takes contexts, not prompts; give contexts, or "
                f"build it again with --text."
            )
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer.open(self._bundle.root)
            return self._tokenizer
