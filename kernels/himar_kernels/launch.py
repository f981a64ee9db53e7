"""Defines what a launch is, and checks its sizes and addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from dataclasses import dataclass

from .shared.errors import InputError

Scalar = ctypes.c_uint64 | ctypes.c_uint32 | ctypes.c_float | ctypes.c_double

MOST_POSITIONS = 65536
MOST_CHANNELS = 4 * 65536  # as many as the draws' counter holds
_MOST_ITEMS = 2**31 - 1  # the kernels divide item numbers in 32 bits
_MOST_BLOCKS = 4096  # more work than that is looped over

THREADS = 128
BLOCK_WIDE_THREADS = 256  # of the kernels whose threads work together on one image or row


@dataclass(frozen=True)
class Launch:
    """A kernel's launch: its entry in kernels.cu, the grid, dynamic shared memory, and the arguments in order."""

    name: str
    blocks: int
    threads: int
    shared_bytes: int
    arguments: tuple[Scalar, ...]


def make_launch(name: str, blocks: int, threads: int, *arguments: Scalar) -> Launch:
    """Return the launch of an entry, its grid no larger than the kernels need to loop over the rest."""
    # Shared memory is static in every kernel, so none is asked for at the launch.
    return Launch(f"himar_{name}", min(blocks, _MOST_BLOCKS), threads, 0, arguments)


def quad_blocks(batch: int, halves: int, positions: int, C: int) -> int:
    """Blocks for one thread per four channels of every position of every image."""
    check_halves(halves)
    items = check_size("batch", batch) * positions * -(-check_size("C", C, MOST_CHANNELS) // 4)
    return -(-check_items("quads of channels", items) // THREADS)


def check_low_sizes(S: int, r: int) -> None:
    """Raise InputError unless 1 ≤ r ≤ S ≤ 65536."""
    check_size("S", S, MOST_POSITIONS)
    check_size("r", r, S)


def check_halves(halves: int) -> int:
    """Return halves when it is 1 or 2; else raise InputError."""
    if halves not in (1, 2):
        raise InputError(f"halves is {halves!r}; it must be 1, or 2 under guidance.")
    return halves


def check_size(name: str, value: int, most: int = _MOST_ITEMS, least: int = 1) -> int:
    """Return the value when it is `least` to `most`; else raise InputError, naming it."""
    if not least <= value <= most:
        raise InputError(f"{name} is {value}; it must be {least} to {most}.")
    return value


def check_items(name: str, value: int) -> int:
    """Return how many items a launch covers; InputError when the kernels cannot number them."""
    if value > _MOST_ITEMS:
        raise InputError(f"a launch over {value} {name} was asked for; at most {_MOST_ITEMS} fit: use smaller batches.")
    return value


def words(**values: int) -> tuple[ctypes.c_uint32, ...]:
    """Return the values as uint32 arguments, in order."""
    return tuple(ctypes.c_uint32(value) for value in values.values())


def addresses_of(optional: Collection[str] = ("noise",), /, **addresses: int | None) -> tuple[ctypes.c_uint64, ...]:
    """Take the addresses in order; only those that `optional` names may be absent."""
    for name, address in addresses.items():
        if not address and name not in optional:
            raise InputError(f"{name} has no address; allocate it before the launch.")
    return tuple(ctypes.c_uint64(address or 0) for address in addresses.values())
