"""Where a run's uniforms come from: the same seed gives the same image everywhere.

Every number is a function of its own coordinates (image, scale, step, cell, code), so an image depends on seed, index
and label only: never on batch, chunking, backend, device or language, nor a scale's numbers on the schedule of another.
A draw is a Philox4x32-10 block whose key is the seed and whose counter words are

    c0 = cell << 16 | code >> 2     (lane = code & 3; code 0 for a uniform)
    c1 = scale << 16 | step         (step 0 predicts the scale, 1 … are its masked steps)
    c2 = image index in the request
    c3 = kind << 8                  (kind 2 uniform, 3 Gumbel noise; 0 and 1 are those of arithmetic/draws.py)

Uniform: u = (r0 >> 8)·2^-24, exact in float32. Gumbel noise: -ln(-ln(((r >> 8) + ½)·2^-24)) in float64, rounded to
float32.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.draws import OneSeed, SeedOfEach
from himar_kernels.arithmetic.philox import Key, Words, philox_words
from himar_kernels.shared.errors import InputError

UNIFORM, GUMBEL = 2, 3
"""Kinds of draws, c3 >> 8."""
_HALF_WORD = 0xFFFF
_UNIT = 2.0**-24


class Draws(Protocol):
    """The source of a run's randomness: of `scale`, at `step` of it, for images int64 (B,) of the request."""

    def uniforms(self, scale: int, step: int, images: NDArray[np.int64], cells: int) -> NDArray[np.float32]:
        """Return a number in [0, 1) for each cell: float32 (B, T)."""
        ...

    def gumbel(self, scale: int, images: NDArray[np.int64], cells: int, codes: int) -> NDArray[np.float32]:
        """Return standard Gumbel noise for each cell and code, for a smooth preview: float32 (B, T, V)."""
        ...


class CounterDraws:
    """The draws of every counter-based source; who inherits it says where an image's come from (`OneSeed`)."""

    def origins(self, images: NDArray[np.int64]) -> tuple[Key, NDArray[np.int64]]:
        """See OneSeed.origins."""
        raise NotImplementedError

    def uniforms(self, scale: int, step: int, images: NDArray[np.int64], cells: int) -> NDArray[np.float32]:
        """See Draws.uniforms."""
        words = self._words(UNIFORM, scale, step, images, cells, 1)[0]
        return ((words[:, :, 0] >> np.uint64(8)) * _UNIT).astype(np.float32)

    def gumbel(self, scale: int, images: NDArray[np.int64], cells: int, codes: int) -> NDArray[np.float32]:
        """See Draws.gumbel."""
        words = np.stack(self._words(GUMBEL, scale, 0, images, cells, codes), axis=-1)
        units = ((words >> np.uint64(8)) + 0.5) * _UNIT
        noise = -np.log(-np.log(units))
        return noise.astype(np.float32).reshape(len(images), cells, -1)[..., :codes]

    def _words(self, kind: int, scale: int, step: int, images: NDArray[np.int64], cells: int, codes: int) -> Words:
        """Return the words, each (B, T, ⌈codes/4⌉)."""
        seeds, indices = self.origins(images)
        key = seeds if isinstance(seeds, int) else seeds[:, None, None]
        return philox_words(*counters(kind, scale, step, indices, cells, codes), key)


class PhiloxDraws(OneSeed, CounterDraws):
    """Counter-based draws of one seed, 0 … 2^64-1 (else InputError)."""


class ImageDraws(SeedOfEach, CounterDraws):
    """Counter-based draws of images that have a seed and an index each."""


def counters(kind: int, scale: int, step: int, images: NDArray[np.int64], cells: int, codes: int) -> Words:
    """Return the counters' words, which broadcast to (B, T, ⌈codes/4⌉).

    Raises InputError for coordinates that do not fit their bits: two draws would then be equal.
    """
    limits = (
        ("scale", np.asarray(scale), _HALF_WORD),
        ("step", np.asarray(step), _HALF_WORD),
        ("image index", images, 0xFFFFFFFF),
        ("cell", np.asarray(cells - 1), _HALF_WORD),
        ("code", np.asarray(codes - 1), 4 * _HALF_WORD + 3),
    )
    for name, values, most in limits:
        if values.size and not 0 <= values.min() <= values.max() <= most:
            raise InputError(f"{name} {values.min()} to {values.max()} is asked of the draws; it must be 0 to {most}.")
    cell = np.arange(cells, dtype=np.uint64)[None, :, None] << np.uint64(16)
    quads = np.arange(-(-codes // 4), dtype=np.uint64)[None, None, :]
    step_word = np.full((1, 1, 1), scale << 16 | step, np.uint64)
    return cell | quads, step_word, images.astype(np.uint64)[:, None, None], np.full((1, 1, 1), kind << 8, np.uint64)
