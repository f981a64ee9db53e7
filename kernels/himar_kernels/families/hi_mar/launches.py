"""Describes one launch of each kernel as data: which entry, how many blocks and threads, which arguments.

Whoever can run a `Launch` runs the kernels: the CUDA driver on a device, or the host build in the tests. Pointers are
addresses where the kernels run; `cuda/*.cuh` say what a kernel does with its arguments. Sizes use the letters of the
model's description: B images (`batch`), H halves (1, or 2 as [conditional; unconditional]), S low and N high positions,
r revealed ones, C channels, W and D widths of the head's condition and of the pivots; `origins` are IMAGE_ORIGIN
(B). Every function raises InputError for a size out of range or an address that is missing.
"""

from __future__ import annotations

import ctypes
import math

from himar_kernels.arithmetic import launches as every_family
from himar_kernels.arithmetic.launches import pack
from himar_kernels.families.hi_mar.device_state import FAULT_COMPONENTS
from himar_kernels.families.hi_mar.forecast import MOST_ORDER
from himar_kernels.launch import (
    BLOCK_WIDE_THREADS,
    MOST_CHANNELS,
    MOST_POSITIONS,
    THREADS,
    Launch,
    addresses_of,
    check_halves,
    check_items,
    check_low_sizes,
    check_size,
    make_launch,
    quad_blocks,
    words,
)
from himar_kernels.shared.errors import InputError

__all__ = [
    "Launch", "check_finite", "dit_solve", "dit_step", "forecast", "index_lists", "keep_prediction", "latents",
    "mlp_solve", "mlp_step", "pack", "ranks", "reveal_conditions", "reveal_low", "reveal_pivots", "start_high",
    "start_low",
]  # fmt: skip


def ranks(*, ranks: int, origins: int, phase: int, batch: int, n: int) -> Launch:
    """Place of each of n positions in its image's order: uint32 ranks (B, n) of origins (B), phase 0 or 1."""
    if phase not in (0, 1):
        raise InputError(f"the phase is {phase!r}; it must be 0 (low) or 1 (high).")
    sizes = words(phase=phase, batch=check_size("batch", batch), n=check_size("n", n, MOST_POSITIONS))
    pointers = addresses_of(ranks=ranks, origins=origins)
    return make_launch("ranks", batch, BLOCK_WIDE_THREADS, *pointers, *sizes)


def index_lists(
    *,
    visible: int,
    sources: int,
    revealed: int,
    ranks: int,
    state: int,
    batch: int,
    halves: int,
    context: int,
    always: int,
    n: int,
    positions: int,
) -> Launch:
    """Gather indices int64 visible (H·B, K+V) and sources (H·B, K+L), and uint32 revealed (B, r), from ranks (B, n).

    `always` positions before the n ordered ones are known in every step; `positions` is L ≥ always + n.
    """
    check_size("n", n, MOST_POSITIONS)
    check_size("always", always, MOST_POSITIONS, least=0)
    check_size("context", context, MOST_POSITIONS, least=0)
    check_size("positions", positions, 2 * MOST_POSITIONS)
    if always + n > positions:
        raise InputError(f"{always + n} positions are embedded, but the decoder predicts only {positions}.")
    rows = check_size("batch", batch) * check_halves(halves)
    pointers = addresses_of(visible=visible, sources=sources, revealed=revealed, ranks=ranks, state=state)
    sizes = words(batch=batch, halves=halves, context=context, always=always, n=n, positions=positions)
    return make_launch("index_lists", rows, BLOCK_WIDE_THREADS, *pointers, *sizes)


def start_low(
    *,
    x: int,
    timestep: int,
    state: int,
    timesteps: int,
    origins: int,
    revealed: int,
    noise: int | None = None,
    batch: int,
    halves: int,
    r: int,
    C: int,
) -> Launch:
    """Start the MLP head's chain: initial noise (B, r, C), given or drawn, into every half of x (H·B·r, C)."""
    blocks = quad_blocks(batch, halves, check_size("r", r, MOST_POSITIONS), C)
    pointers = addresses_of(
        x=x, timestep=timestep, state=state, timesteps=timesteps, origins=origins, revealed=revealed, noise=noise
    )
    return make_launch("start_low", blocks, THREADS, *pointers, *words(batch=batch, halves=halves, r=r, C=C))


def mlp_step(
    *,
    x: int,
    timestep: int,
    low_tokens: int,
    state: int,
    timesteps: int,
    chain: int,
    prediction: int,
    origins: int,
    revealed: int,
    noise: int | None = None,
    fault: int,
    batch: int,
    halves: int,
    S: int,
    r: int,
    C: int,
) -> Launch:
    """One reverse step of x (H·B·r, C) under prediction (H·B·r, 2C); at k = 0 also into low_tokens (2B, S, C).

    `noise` (B, r, C) is that of the step's k; drawn when None.
    """
    check_low_sizes(S, r)
    blocks = quad_blocks(batch, halves, r, C)
    pointers = addresses_of(
        x=x, timestep=timestep, low_tokens=low_tokens, state=state, timesteps=timesteps, chain=chain,
        prediction=prediction, origins=origins, revealed=revealed, noise=noise, fault=fault,
    )  # fmt: skip
    return make_launch("mlp_step", blocks, THREADS, *pointers, *words(batch=batch, halves=halves, S=S, r=r, C=C))


def start_high(
    *,
    x: int,
    initial: int,
    timestep: int,
    state: int,
    timesteps: int,
    chain: int,
    tokens: int,
    ranks: int,
    origins: int,
    noise: int | None = None,
    batch: int,
    halves: int,
    N: int,
    C: int,
) -> Launch:
    """Start the DiT head's chain: initial (B, N, C), given or drawn, and x (H·B, N, C) with re-noised known tokens."""
    blocks = quad_blocks(batch, halves, check_size("N", N, MOST_POSITIONS), C)
    pointers = addresses_of(
        x=x, initial=initial, timestep=timestep, state=state, timesteps=timesteps, chain=chain, tokens=tokens,
        ranks=ranks, origins=origins, noise=noise,
    )  # fmt: skip
    return make_launch("start_high", blocks, THREADS, *pointers, *words(batch=batch, halves=halves, N=N, C=C))


def dit_step(
    *,
    x: int,
    timestep: int,
    tokens: int,
    state: int,
    timesteps: int,
    chain: int,
    prediction: int,
    initial: int,
    ranks: int,
    origins: int,
    noise: int | None = None,
    fault: int,
    batch: int,
    halves: int,
    N: int,
    C: int,
) -> Launch:
    """One reverse step of x (H·B, N, C) under prediction (H·B, N, C), known positions re-noised for the next one.

    At k = 0 masked positions go into both halves of tokens (2B, N, C). `noise` (B, N, C) is that of the step's k;
    drawn when None.
    """
    blocks = quad_blocks(batch, halves, check_size("N", N, MOST_POSITIONS), C)
    pointers = addresses_of(
        x=x, timestep=timestep, tokens=tokens, state=state, timesteps=timesteps, chain=chain, prediction=prediction,
        initial=initial, ranks=ranks, origins=origins, noise=noise, fault=fault,
    )  # fmt: skip
    return make_launch("dit_step", blocks, THREADS, *pointers, *words(batch=batch, halves=halves, N=N, C=C))


def check_finite(*, values: int, count: int, state: int, fault: int, component: int) -> Launch:
    """Note a fault of `component`, 1 to 8 as FAULT_COMPONENTS counts, unless all `count` float32 values are finite."""
    check_size("component", component, len(FAULT_COMPONENTS))
    return every_family.check_finite(values=values, count=count, state=state, fault=fault, component=component)


def latents(*, latents: int, tokens: int, vae_scale: float, batch: int, n: int, channels: int) -> Launch:
    """Arrange tokens (B, n, C) as latents (B, C, n) and take the VAE scale away."""
    if not (math.isfinite(vae_scale) and vae_scale != 0):
        raise InputError(f"vae_scale is {vae_scale}; it must be a finite number other than 0.")
    check_size("n", n, MOST_POSITIONS)
    check_size("channels", channels, MOST_CHANNELS)
    items = check_items("values", check_size("batch", batch) * n * channels)
    pointers = addresses_of(latents=latents, tokens=tokens)
    sizes = words(batch=batch, n=n, channels=channels)
    return make_launch("latents", -(-items // THREADS), THREADS, *pointers, ctypes.c_float(vae_scale), *sizes)


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


def keep_prediction(
    *,
    settled: int,
    differences: int,
    gap: int,
    state: int,
    prediction: int,
    rows: int,
    halves: int,
    evaluated: int,
    order: int,
    outputs: int,
    C: int,
) -> Launch:
    """Settle the prediction (E·rows, outputs·C) of E = `evaluated` halves, and keep what forecasts are made from.

    settled (H·rows, outputs·C), differences (order + 1, rows, outputs·C), gap (rows, C): see forecast.cuh. outputs: 1
    of a DiT head, 2 of an MLP head.
    """
    blocks = _kept_blocks(rows, halves, order, outputs, C)
    if not 1 <= evaluated <= halves:
        raise InputError(f"evaluated is {evaluated}; it must be 1 to {halves}, as many halves as there are.")
    pointers = addresses_of(settled=settled, differences=differences, gap=gap, state=state, prediction=prediction)
    sizes = words(rows=rows, halves=halves, evaluated=evaluated, order=order, outputs=outputs, C=C)
    return make_launch("keep_prediction", blocks, THREADS, *pointers, *sizes)


def forecast(
    *, settled: int, differences: int, state: int, rows: int, halves: int, order: int, outputs: int, C: int
) -> Launch:
    """Forecast settled (H·rows, outputs·C) at an index at which the head is not evaluated, from the differences."""
    blocks = _kept_blocks(rows, halves, order, outputs, C)
    pointers = addresses_of(settled=settled, differences=differences, state=state)
    sizes = words(rows=rows, halves=halves, order=order, outputs=outputs, C=C)
    return make_launch("forecast", blocks, THREADS, *pointers, *sizes)


def _kept_blocks(rows: int, halves: int, order: int, outputs: int, C: int) -> int:
    check_size("order", order, MOST_ORDER, least=0)
    check_size("outputs", outputs, 2)
    check_size("rows", rows)
    return quad_blocks(rows, halves, outputs, C)
