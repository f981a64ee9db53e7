"""Describes the launches that no family owns: the search for values that are not finite, and packing of pixels.

See `himar_kernels.launch.Launch`; `cuda/{conditions,packing}.cuh` say what the kernels do with their arguments.
"""

from __future__ import annotations

import ctypes

from himar_kernels.launch import THREADS, Launch, Scalar, addresses_of, check_items, check_size, make_launch, words

STATE_BYTES = 64
"""Size of a StepState (`cuda/state.cuh`); one of zeros serves families that keep none."""


def check_finite(*, values: int, count: int, state: int, fault: int, component: int) -> Launch:
    """Note a fault of `component` at the step of `state` unless all `count` float32 values are finite.

    component: its number in the family's table, 1 to 255. Raises InputError for a size out of range.
    """
    quads = -(-check_size("count", count, 2**62) // 4)
    first, *others = addresses_of(values=values, state=state, fault=fault)
    number = ctypes.c_uint32(check_size("component", component, 255))
    arguments: tuple[Scalar, ...] = (first, ctypes.c_uint64(count), *others, number)
    return make_launch("check_finite", -(-quads // THREADS), THREADS, *arguments)


def pack(*, pixels: int, images: int, fault: int, batch: int, area: int) -> Launch:
    """Turn images float32 (B, 3, area) in [-1, 1] into pixels uint8 (B, area, 3).

    A value that is not finite is a fault of component 5, the VAE decoder's number in every family. Raises InputError
    for a size out of range.
    """
    items = check_items("pixels", check_size("batch", batch) * check_size("area", area)) // 4 + batch
    pointers = addresses_of(pixels=pixels, images=images, fault=fault)
    return make_launch("pack", -(-items // THREADS), THREADS, *pointers, *words(batch=batch, area=area))
