"""Draws a run's orders and noise: the same seed makes the same image everywhere.

Every number is a function of its own coordinates (image, phase, steps, position, channel), so an image never
depends on batch size, chunking, backend, device or language. A draw is a Philox4x32-10 block whose key is the
seed and whose counter words are

    c0 = position << 16 | channel >> 2     (lane = channel & 3)
    c1 = step << 16 | k                    (k = 0xFFFF for the initial noise)
    c2 = image index in the request
    c3 = phase (0 low, 1 high) | kind << 8 (kind 0 normals, 1 order)

Order: a position's sorting key is word 0 at c0 = position << 16, c1 = 0; positions ascend by key, ties by
position. Normals: each pair of words (r0, r1) gives two by Box-Muller in float64, rounded to float32:
u1 = ((r0>>8)+1)·2^-24, u2 = (r1>>8)·2^-24, √(-2 ln u1)·cos 2πu2 and √(-2 ln u1)·sin 2πu2.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..shared.errors import InputError
from .philox import Key, Words, philox_words

Phase = Literal["low", "high"]
"""The phases of a run, each with draws of its own."""

INITIAL_NOISE = 0xFFFF
_PHASE_CODE: dict[Phase, int] = {"low": 0, "high": 1}
_NORMALS, _ORDER = 0, 1
_HALF_WORD = 0xFFFF
_MOST_INDEX = 0xFFFFFFFF
_UNIT = 2.0**-24
# Counters worked on at once: their words stay in a core's cache.
_BLOCK = 8192


class Draws(Protocol):
    """The source of a run's randomness.

    `step` counts a phase's autoregressive steps; `images` are image indices in the request, int64 (B,);
    `positions` int64 (B, r) are 0-based within the phase.
    """

    def order(self, phase: Phase, positions: int, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a permutation of 0 … positions-1 per image: int64 (B, positions), its end revealed first."""
        ...

    def initial_noise(
        self, phase: Phase, step: int, images: NDArray[np.int64], positions: NDArray[np.int64], channels: int
    ) -> NDArray[np.float32]:
        """Return the state a chain starts from: standard normals, float32 (B, r, C)."""
        ...

    def noise(
        self,
        phase: Phase,
        step: int,
        diffusion: Sequence[int],
        images: NDArray[np.int64],
        positions: NDArray[np.int64],
        channels: int,
    ) -> NDArray[np.float32]:
        """Return the noise of the reverse steps at chain indices k in `diffusion`: float32 (len, B, r, C)."""
        ...


class OneSeed:
    """All images of a request are of one seed; `images` are their indices. Holds no state: safe to share."""

    def __init__(self, seed: int) -> None:
        """seed: 0 … 2^64-1, else InputError."""
        self.seed = check_seed(seed)

    def origins(self, images: NDArray[np.int64]) -> tuple[Key, NDArray[np.int64]]:
        """Return the seeds of images, one for all or one each (B,), and the indices that their draws count by."""
        return self.seed, images


class SeedOfEach:
    """Each image of a request has a seed and an index of its own; `images` count them. Holds no state: safe to share.

    So images of several requests run together, each as it is alone.
    """

    def __init__(self, seeds: Sequence[int], indices: Sequence[int]) -> None:
        """seeds, indices: as many as there are images; seeds 0 … 2^64-1, indices 0 … 2^32-1, else InputError."""
        if len(seeds) != len(indices):
            raise InputError(f"{len(seeds)} seeds and {len(indices)} image indices are given; give each image both.")
        self.seeds = np.array([check_seed(seed) for seed in seeds], np.uint64)
        self.indices = np.array([_check_index(index) for index in indices], np.int64)

    def origins(self, images: NDArray[np.int64]) -> tuple[Key, NDArray[np.int64]]:
        """See OneSeed.origins."""
        return self.seeds[images], self.indices[images]


class CounterDraws:
    """The draws of every counter-based source; who inherits it says where an image's come from (`OneSeed`)."""

    def origins(self, images: NDArray[np.int64]) -> tuple[Key, NDArray[np.int64]]:
        """See OneSeed.origins."""
        raise NotImplementedError

    def order(self, phase: Phase, positions: int, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """See Draws.order."""
        seeds, indices = self.origins(images)
        _check_coordinates(0, indices, np.array([positions - 1]), 1)
        keys = philox_words(
            np.arange(positions, dtype=np.uint64)[None, :] << np.uint64(16),
            np.zeros((1, 1), np.uint64),
            indices.astype(np.uint64)[:, None],
            np.full((1, 1), _PHASE_CODE[phase] | _ORDER << 8, np.uint64),
            seeds if isinstance(seeds, int) else seeds[:, None],
        )[0]
        return np.argsort(keys, axis=1, kind="stable")

    def initial_noise(
        self, phase: Phase, step: int, images: NDArray[np.int64], positions: NDArray[np.int64], channels: int
    ) -> NDArray[np.float32]:
        """See Draws.initial_noise."""
        return self._normals(phase, step, [INITIAL_NOISE], images, positions, channels)[0]

    def noise(
        self,
        phase: Phase,
        step: int,
        diffusion: Sequence[int],
        images: NDArray[np.int64],
        positions: NDArray[np.int64],
        channels: int,
    ) -> NDArray[np.float32]:
        """See Draws.noise. Raises InputError for a k outside 0 … 65534."""
        if len(diffusion) and not 0 <= min(diffusion) <= max(diffusion) < INITIAL_NOISE:
            raise InputError(
                f"chain indices {min(diffusion)} to {max(diffusion)} are requested from the draws; "
                f"they must be 0 to {INITIAL_NOISE - 1}."
            )
        return self._normals(phase, step, diffusion, images, positions, channels)

    def _normals(
        self,
        phase: Phase,
        step: int,
        diffusion: Sequence[int],
        images: NDArray[np.int64],
        positions: NDArray[np.int64],
        channels: int,
    ) -> NDArray[np.float32]:
        seeds, indices = self.origins(images)
        c0, c1, c2, c3 = normal_counters(phase, step, diffusion, indices, positions, channels)
        batch, count = positions.shape
        quads = -(-channels // 4)
        normals = np.empty((len(diffusion), batch, count, quads, 2, 2), np.float32)
        flat = normals.reshape(len(diffusion), batch, count * quads, 2, 2)
        # Blocks of whole chain indices where many fit, else of images.
        per_image = max(1, count * quads)
        images_at_once = max(1, _BLOCK // per_image)
        chain_at_once = max(1, _BLOCK // (per_image * max(1, batch)))
        for k in range(0, len(diffusion), chain_at_once):
            ks = slice(k, k + chain_at_once)
            for image in range(0, batch, images_at_once):
                rows = slice(image, image + images_at_once)
                key = seeds if isinstance(seeds, int) else seeds[None, rows, None]
                words = philox_words(c0[:, rows], c1[ks], c2[:, rows], c3, key)
                _box_muller(words, flat[ks, rows])
        return normals.reshape(len(diffusion), batch, count, quads * 4)[..., :channels]


class PhiloxDraws(OneSeed, CounterDraws):
    """Counter-based draws of one seed, 0 … 2^64-1 (else InputError)."""


class ImageDraws(SeedOfEach, CounterDraws):
    """Counter-based draws of images that have a seed and an index each."""


IMAGE_ORIGIN = np.dtype({"names": ["seed", "index"], "formats": ["<u8", "<u4"], "offsets": [0, 8], "itemsize": 16})
"""struct ImageOrigin of `cuda/philox.cuh`: the seed and the index that an image's draws come from."""


def image_origins(draws: object, images: NDArray[np.int64]) -> NDArray[Any]:
    """Return where the kernels draw the numbers of images from: IMAGE_ORIGIN (B,).

    Of draws that are not counter-based, which the kernels are given, seeds are 0 and indices those of `images`.
    """
    found = np.zeros(len(images), IMAGE_ORIGIN)
    found["index"] = images
    if isinstance(draws, OneSeed | SeedOfEach):
        found["seed"], found["index"] = draws.origins(images)
    return found


def check_seed(seed: int) -> int:
    """Return a seed as Python's int; InputError unless it is a whole number from 0 to 2^64-1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed!r}; it must be a whole number from 0 to 2^64-1.")
    return int(seed)


def _check_index(index: int) -> int:
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index <= _MOST_INDEX:
        raise InputError(f"image index is {index!r}; it must be a whole number from 0 to 2^32-1.")
    return int(index)


def normal_counters(
    phase: Phase,
    step: int,
    diffusion: Sequence[int],
    images: NDArray[np.int64],
    positions: NDArray[np.int64],
    channels: int,
) -> Words:
    """Return the words of the counters of normals, which broadcast to (len(diffusion), B, r·⌈C / 4⌉).

    Raises InputError for coordinates that do not fit their bits.
    """
    _check_coordinates(step, images, positions, channels)
    quads = -(-channels // 4)
    c0 = (positions.astype(np.uint64)[..., None] << np.uint64(16)) | np.arange(quads, dtype=np.uint64)
    c0 = c0.reshape(1, len(positions), positions.shape[1] * quads)
    c1 = (np.uint64(step << 16) | np.asarray(diffusion, np.uint64))[:, None, None]
    c2 = images.astype(np.uint64)[None, :, None]
    c3 = np.full((1, 1, 1), _PHASE_CODE[phase] | _NORMALS << 8, np.uint64)
    return c0, c1, c2, c3


def _box_muller(words: Words, out: NDArray[np.float32]) -> None:
    """Fill `out` (…, 2 pairs, 2 lanes) with the normals of four words of 32 bits (…)."""
    coarse, fine = turns()
    for pair in range(2):
        radius = (words[2 * pair] >> np.uint64(8)).astype(np.float64)
        radius += 1.0
        radius *= _UNIT
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        turn = words[2 * pair + 1].view(np.int64) >> 8
        point = coarse.take(turn >> 12)
        point *= fine.take(turn & 0xFFF)
        point *= radius
        out[..., pair, :] = point.view(np.float64).reshape(*point.shape, 2)


@functools.cache
def turns() -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """exp(2πi·j/2^12) and exp(2πi·j/2^24), j < 2^12: their products are all 2^24 angles, exact to 1e-15.

    Two table look-ups cost a third of a cosine and a sine.
    """
    j = np.arange(4096)
    return np.exp(2j * np.pi * j / 2**12), np.exp(2j * np.pi * j / 2**24)


def _check_coordinates(step: int, images: NDArray[np.int64], positions: NDArray[np.int64], channels: int) -> None:
    """Refuse coordinates that do not fit their bits of the counter: two draws would then be equal."""
    limits = (
        ("step", np.asarray(step), _HALF_WORD),
        ("image index", images, _MOST_INDEX),
        ("position", positions, _HALF_WORD),
        ("channel", np.asarray(channels - 1), 4 * _HALF_WORD + 3),
    )
    for name, values, most in limits:
        if values.size and not 0 <= values.min() <= values.max() <= most:
            raise InputError(
                f"{name} {values.min()} to {values.max()} is requested from the draws; it must be 0 to {most}."
            )
