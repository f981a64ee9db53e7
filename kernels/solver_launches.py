"""Launches of the steps of a solver without noise, one for each kind of head; part of `launches`.

`start` (B·r, C) or (B, N, C) keeps x̂0 between the steps of a chain. The chain's table has the rows of a solver.
"""

from __future__ import annotations

from .cuda_launch import (
    MOST_POSITIONS,
    THREADS,
    Launch,
    addresses_of,
    check_low_sizes,
    check_size,
    make_launch,
    quad_blocks,
    words,
)


def mlp_solve(
    *,
    x: int,
    start: int,
    timestep: int,
    low_tokens: int,
    state: int,
    timesteps: int,
    chain: int,
    prediction: int,
    revealed: int,
    fault: int,
    batch: int,
    halves: int,
    S: int,
    r: int,
    C: int,
) -> Launch:
    """One step of x (H·B·r, C) under prediction (H·B·r, 2C); at k = 0 also into low_tokens (2B, S, C)."""
    check_low_sizes(S, r)
    blocks = quad_blocks(batch, halves, r, C)
    pointers = addresses_of(
        x=x, start=start, timestep=timestep, low_tokens=low_tokens, state=state, timesteps=timesteps, chain=chain,
        prediction=prediction, revealed=revealed, fault=fault,
    )  # fmt: skip
    return make_launch("mlp_solve", blocks, THREADS, *pointers, *words(batch=batch, halves=halves, S=S, r=r, C=C))


def dit_solve(
    *,
    x: int,
    start: int,
    timestep: int,
    tokens: int,
    state: int,
    timesteps: int,
    chain: int,
    prediction: int,
    initial: int,
    ranks: int,
    fault: int,
    batch: int,
    halves: int,
    N: int,
    C: int,
) -> Launch:
    """One step of x (H·B, N, C) under prediction (H·B, N, C), known positions re-noised for the next one.

    At k = 0 masked positions go into both halves of tokens (2B, N, C).
    """
    blocks = quad_blocks(batch, halves, check_size("N", N, MOST_POSITIONS), C)
    pointers = addresses_of(
        x=x, start=start, timestep=timestep, tokens=tokens, state=state, timesteps=timesteps, chain=chain,
        prediction=prediction, initial=initial, ranks=ranks, fault=fault,
    )  # fmt: skip
    return make_launch("dit_solve", blocks, THREADS, *pointers, *words(batch=batch, halves=halves, N=N, C=C))
