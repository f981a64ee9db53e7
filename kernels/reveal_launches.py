"""Launches that take the revealed positions' rows out of a transformer's outputs; part of `launches`.

One kernel serves all three: a width of 0 leaves conditions or pivots out.
"""

from __future__ import annotations

import ctypes

from .cuda_launch import (
    THREADS,
    Launch,
    addresses_of,
    check_halves,
    check_items,
    check_low_sizes,
    check_size,
    make_launch,
    words,
)

_NOWHERE = ctypes.c_uint64(0)


def reveal_low(
    *,
    head_condition: int,
    pivots: int,
    condition: int,
    engine_pivots: int,
    revealed: int,
    state: int,
    fault: int,
    batch: int,
    halves: int,
    S: int,
    r: int,
    W: int,
    D: int,
) -> Launch:
    """Gather the revealed rows of condition (H·B, S, W) to (H·B·r, W), and the conditional pivots into (2B, S, D)."""
    check_low_sizes(S, r)
    check_size("W", W)
    check_size("D", D)
    rows = (check_halves(halves) + 1) * check_size("batch", batch) * r
    pointers = addresses_of(
        head_condition=head_condition, pivots=pivots, condition=condition, engine_pivots=engine_pivots,
        revealed=revealed, state=state, fault=fault,
    )  # fmt: skip
    sizes = words(batch=batch, halves=halves, S=S, r=r, W=W, D=D)
    return make_launch("reveal_low", check_items("rows", rows), THREADS, *pointers, *sizes)


def reveal_conditions(
    *, head_condition: int, condition: int, revealed: int, state: int, fault: int, batch: int, halves: int, n: int,
    r: int, W: int,
) -> Launch:  # fmt: skip
    """Gather the revealed rows of condition (H·B, n, W) to (H·B·r, W), in a phase that leaves no pivots."""
    check_low_sizes(n, r)
    rows = check_halves(halves) * check_size("batch", batch) * r
    to, *others = addresses_of(
        head_condition=head_condition, condition=condition, revealed=revealed, state=state, fault=fault
    )
    pointers = (to, _NOWHERE, others[0], _NOWHERE, *others[1:])
    sizes = words(batch=batch, halves=halves, S=n, r=r, W=check_size("W", W), D=0)
    return make_launch("reveal_low", check_items("rows", rows), THREADS, *pointers, *sizes)


def reveal_pivots(
    *, pivots: int, engine_pivots: int, revealed: int, state: int, fault: int, batch: int, halves: int, S: int, r: int,
    D: int,
) -> Launch:  # fmt: skip
    """Gather the revealed conditional rows of engine_pivots (H·B, S, D) into pivots (2B, S, D), before a DiT head."""
    check_low_sizes(S, r)
    check_halves(halves)
    rows = check_size("batch", batch) * r
    to, *others = addresses_of(pivots=pivots, engine_pivots=engine_pivots, revealed=revealed, state=state, fault=fault)
    pointers = (_NOWHERE, to, _NOWHERE, *others)
    sizes = words(batch=batch, halves=halves, S=S, r=r, W=0, D=check_size("D", D))
    return make_launch("reveal_low", check_items("rows", rows), THREADS, *pointers, *sizes)
