"""Describes one launch of each of the family's kernels as data, as hi_mar's launches do for its own.

Pointers are addresses where the kernels run; `cuda/{code_draws,smooth,remask,pyramid,nearest,past}.cuh` say what a
kernel does with its arguments. B images (`batch`), H halves (1, or 2 as [conditional; unconditional]), T cells of a
scale, p its side, V codes of C channels. Every function raises InputError for a size out of range or an address that is
missing.
"""

from __future__ import annotations

import ctypes
import math

from himar_kernels.families.hmar.scales import CONVOLUTIONS, MOST_SIDE
from himar_kernels.launch import (
    BLOCK_WIDE_THREADS,
    MOST_CHANNELS,
    MOST_POSITIONS,
    THREADS,
    Launch,
    addresses_of,
    check_halves,
    check_items,
    check_size,
    make_launch,
    words,
)
from himar_kernels.shared.errors import InputError

MOST_CODES = 4096
"""Codes whose logits one block sorts in its shared memory."""
_MOST_PAST = 2**24  # of all scales but one
_MOST_STEPS = 0xFFFF  # the draws' counter has 16 bits for each


def draw_codes(
    *, codes: int, confidence: int, logits: int, uniforms: int | None = None, masked: int | None = None, origins: int,
    fault: int, weight: float, top_p: float, top_k: int, scale: int, step: int, component: int, batch: int,
    halves: int, T: int, V: int,
) -> Launch:  # fmt: skip
    """Draw codes int64 (B, T) and their confidence (B, T) from logits (H·B, T, V), at masked cells if any are given.

    origins is the address of the images' IMAGE_ORIGIN (B), from which uniforms (B, T) are drawn where None. weight is t
    of (1+t)·cond - t·uncond.
    """
    cells = _drawn_cells(weight, top_p, batch, T, V)
    pointers = addresses_of(
        ("uniforms", "masked"),
        codes=codes, confidence=confidence, logits=logits, uniforms=uniforms, masked=masked, origins=origins,
        fault=fault,
    )  # fmt: skip
    sizes = words(
        top_k=check_size("top_k", top_k, V, least=0),
        scale=check_size("scale", scale, _MOST_STEPS, least=0),
        step=check_size("step", step, _MOST_STEPS, least=0),
        component=check_size("component", component, 255),
        batch=batch, halves=check_halves(halves), T=T, V=V,
    )  # fmt: skip
    reals = (ctypes.c_double(weight), ctypes.c_double(top_p))
    return make_launch("draw_codes", cells, BLOCK_WIDE_THREADS, *pointers, *reals, *sizes)


def mix_codes(
    *, words: int, logits: int, gumbel: int | None = None, embedding: int, origins: int, fault: int,
    weight: float, top_p: float, lift: float, temperature: float, top_k: int, scale: int, component: int, batch: int,
    halves: int, T: int, V: int, C: int,
) -> Launch:  # fmt: skip
    """Mix the vectors of embedding (V, C) for a smooth preview: words (B·T, C) of logits (H·B, T, V).

    gumbel (B, T, V) is drawn where None; lift and temperature are those of `preview_factors`, the others as in
    `draw_codes`.
    """
    cells = _drawn_cells(weight, top_p, batch, T, V)
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature is {temperature:g}; it must be a finite number above 0.")
    if not math.isfinite(lift):
        raise InputError(f"lift is {lift}; it must be finite.")
    pointers = addresses_of(
        ("gumbel",),
        words=words, logits=logits, gumbel=gumbel, embedding=embedding, origins=origins, fault=fault,
    )  # fmt: skip
    sizes = _uint32(
        check_size("top_k", top_k, V, least=0),
        check_size("scale", scale, _MOST_STEPS, least=0),
        check_size("component", component, 255),
        batch, check_halves(halves), T, V, check_size("C", C, MOST_CHANNELS),
    )  # fmt: skip
    reals = (ctypes.c_double(weight), ctypes.c_double(top_p), ctypes.c_double(lift), ctypes.c_double(temperature))
    return make_launch("mix_codes", cells, BLOCK_WIDE_THREADS, *pointers, *reals, *sizes)


def least_confident(
    *, chosen: int, confidence: int, among: int | None = None, count: int, batch: int, T: int
) -> Launch:
    """Mark each image's `count` least confident cells in chosen, bool (B, T), among those of `among` or all."""
    cells = check_items("cells", check_size("batch", batch) * check_size("T", T, MOST_POSITIONS))
    pointers = addresses_of(("among",), chosen=chosen, confidence=confidence, among=among)
    sizes = words(count=check_size("count", count, T, least=0), batch=batch, T=T)
    return make_launch("least_confident", -(-cells // THREADS), THREADS, *pointers, *sizes)


def least_confident_of_each(
    *, chosen: int, confidence: int, among: int | None = None, counts: int, batch: int, T: int
) -> Launch:
    """Do as `least_confident` with a count for each image: counts uint32 (B)."""
    cells = check_items("cells", check_size("batch", batch) * check_size("T", T, MOST_POSITIONS))
    pointers = addresses_of(("among",), chosen=chosen, confidence=confidence, among=among, counts=counts)
    return make_launch("least_confident_of_each", -(-cells // THREADS), THREADS, *pointers, *words(batch=batch, T=T))


def show_masked(*, shown: int, masked: int, batch: int, halves: int, T: int) -> Launch:
    """Write masked, bool (B, T), as the networks take it: shown float32 (H·B, T), 1 at masked cells."""
    cells = check_items("cells", check_size("batch", batch) * check_size("T", T, MOST_POSITIONS))
    pointers = addresses_of(shown=shown, masked=masked)
    sizes = words(batch=batch, halves=check_halves(halves), T=T)
    return make_launch("show_masked", -(-cells // THREADS), THREADS, *pointers, *sizes)


def upsample_codes(*, grid: int, codes: int, embedding: int, up: int, batch: int, p: int, H: int, C: int) -> Launch:
    """Interpolate the vectors of codes (B, p²) with up (H, p): grid (B, C, H, H)."""
    check_size("p", p, MOST_SIDE)
    pointers = addresses_of(grid=grid, codes=codes, embedding=embedding, up=up)
    blocks = _blocks(batch, H, C)
    return make_launch("upsample_codes", blocks, THREADS, *pointers, *words(batch=batch, p=p, H=H, C=C))


def add_contribution(
    *, own: int, latent: int | None = None, grid: int, weights: int, biases: int, k: int, batch: int, H: int, C: int
) -> Launch:
    """Compute own = ½·grid + ½·conv_k(grid), all (B, C, H, H), and add it to latent if one is given."""
    check_size("k", k, CONVOLUTIONS - 1, least=0)
    pointers = addresses_of(("latent",), own=own, latent=latent, grid=grid, weights=weights, biases=biases)
    blocks = _blocks(batch, H, C)
    return make_launch("add_contribution", blocks, THREADS, *pointers, *words(k=k, batch=batch, H=H, C=C))


def scale_words(
    *, words: int, latent: int, own: int | None = None, masked: int | None = None, down: int, batch: int, halves: int,
    p: int, side: int, C: int,
) -> Launch:  # fmt: skip
    """Average latent (B, C, side, side) down to words (H·B, p², C); `own`, likewise, is added where not masked."""
    if bool(own) != bool(masked):
        raise InputError("own and masked are given together or not at all.")
    check_size("side", side, MOST_SIDE)
    blocks = _blocks(batch, p, C, "p")
    pointers = addresses_of(("own", "masked"), words=words, latent=latent, own=own, masked=masked, down=down)
    sizes = _uint32(batch, check_halves(halves), p, side, C)
    return make_launch("scale_words", blocks, THREADS, *pointers, *sizes)


def nearest_codes(*, codes: int, words: int, embedding: int, N: int, V: int, C: int) -> Launch:
    """Find the code int64 (N) whose vector in embedding (V, C) is nearest to each of words (N, C)."""
    check_size("V", V, MOST_CODES)
    check_items("values", check_size("N", N) * check_size("C", C, MOST_CHANNELS))
    pointers = addresses_of(codes=codes, words=words, embedding=embedding)
    return make_launch("nearest_codes", N, BLOCK_WIDE_THREADS, *pointers, *_uint32(N, V, C))


def subtract(*, rest: int, part: int, count: int) -> Launch:
    """Subtract `part` from `rest`, both float32 of `count` values."""
    blocks = -(-check_items("values", check_size("count", count)) // THREADS)
    return make_launch("subtract", blocks, THREADS, *addresses_of(rest=rest, part=part), *words(count=count))


def _drawn_cells(weight: float, top_p: float, batch: int, T: int, V: int) -> int:
    """Check what filters and draws take; return the cells of all images."""
    if not math.isfinite(weight):
        raise InputError(f"weight is {weight}; it must be finite.")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p:g}; it must be above 0 and at most 1, where 1 keeps every code.")
    check_size("V", V, MOST_CODES)
    return check_items("cells", check_size("batch", batch) * check_size("T", T, MOST_POSITIONS))


def join_past(*, joined: int, past: int, own: int, N: int, P: int, T: int, C: int) -> Launch:
    """Put own (N, T, C) after past (N, P, C) in each of N sequences: joined (N, P + T, C), which overlaps neither."""
    rows = check_size("N", N) * (check_size("P", P, _MOST_PAST, least=0) + check_size("T", T, MOST_POSITIONS))
    quads = check_items("quads of channels", rows * -(-check_size("C", C, MOST_CHANNELS) // 4))
    pointers = addresses_of(joined=joined, past=past, own=own)
    return make_launch("join_past", -(-quads // THREADS), THREADS, *pointers, *words(N=N, P=P, T=T, C=C))


def _blocks(batch: int, side: int, C: int, name: str = "H") -> int:
    """Blocks for one thread per value of (B, C, side, side)."""
    items = check_size("batch", batch) * check_size(name, side, MOST_SIDE) ** 2 * check_size("C", C, MOST_CHANNELS)
    return -(-check_items("values", items) // THREADS)


def _uint32(*values: int) -> tuple[ctypes.c_uint32, ...]:
    return tuple(ctypes.c_uint32(value) for value in values)
