"""What each launch does, in NumPy: the kernels of `launches` on arrays in host memory.

A definition takes the kernel's arguments in their order, looks the arrays up once, and returns the work, which may be
done again for as long as they live: what changes between two runs (step, k, guidance, chain) lies in the arrays.
Noise is given; only a GPU draws it where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.packing import to_uint8
from himar_kernels.launch import Definition, View, Work

from .device_state import CHAIN_COLUMNS, FAULT_COMPONENTS, HEAD_FAULTS, PHASE_CODES, SOLVER_COLUMNS, STEP_STATE
from .diffusion import BASE_STEPS, Array, Chain, dit_reverse_step, mlp_reverse_step, renoise_known
from .index_lists import index_lists
from .solvers import AnyChain, SolverChain, solver_step

_Follow = Callable[[int, Array, Array], Array]  # k, x and the prediction give the next x

_Kind = TypeVar("_Kind", Chain, SolverChain)

_PHASES = {code: phase for phase, code in PHASE_CODES.items()}


class _State:
    """A step's state in memory, and the fault word beside it."""

    def __init__(self, view: View, state: int, fault: int | None = None) -> None:
        record = view(state, (), STEP_STATE)
        self._fields = {name: record[name] for name in STEP_STATE.names or ()}
        self._fault = None if fault is None else view(fault, (1,), np.uint32)

    def __getitem__(self, name: str) -> Any:
        return self._fields[name].item()

    def lower(self, k: int, timestep: NDArray[np.int64], timesteps: NDArray[np.int64]) -> None:
        """Let the next run of a head be that at k."""
        self._fields["k"][...] = k
        timestep[0] = timesteps[k]

    def check(self, values: NDArray[np.float32], component: str) -> None:
        """Note a fault of a component unless all values are finite; the first fault stays."""
        assert self._fault is not None
        if not self._fault[0] and not np.isfinite(values).all():
            self._fault[0] = FAULT_COMPONENTS.index(component) + 1 | self["step"] << 8

    def check_head(self, values: NDArray[np.float32], kind: Literal["mlp", "dit"]) -> None:
        """As `check`, for the head of this kind in the step's phase."""
        self.check(values, HEAD_FAULTS[kind, _PHASES[self["phase"]]])


def _index_lists(
    view: View, visible: int, sources: int, revealed: int, ranks: int, state: int, batch: int, halves: int,
    context: int, always: int, n: int, positions: int,
) -> Work:  # fmt: skip
    at, rows = _State(view, state), halves * batch
    order = view(ranks, (batch, n), np.uint32)
    most_visible = view(visible, (rows * (context + always + n),), np.int64)
    sources_of = view(sources, (rows, context + positions), np.int64)
    most_revealed = view(revealed, (batch * n,), np.uint32)
    known = np.ones((rows, always + n), np.bool_)

    def work() -> None:
        masked, r = at["masked"], at["revealed"]
        known[:, always:].reshape(halves, batch, n)[:] = order >= masked
        found = index_lists(known, context, positions)
        most_visible[: found.visible.size] = found.visible.ravel()
        sources_of[:] = found.sources
        most_revealed[: batch * r] = np.nonzero((order < masked) & (order >= masked - r))[1]

    return work


def _reveal(
    view: View, head_condition: int, pivots: int, condition: int, engine_pivots: int, revealed: int, state: int,
    fault: int, batch: int, halves: int, S: int, r: int, W: int, D: int,
) -> Work:  # fmt: skip
    at, image = _State(view, state, fault), np.arange(batch)[:, None]
    positions = view(revealed, (batch, r), np.uint32)

    def check(rows: NDArray[np.float32]) -> None:
        at.check(rows, "transformer_low" if at["phase"] == PHASE_CODES["low"] else "transformer_high")

    if D:
        kept, given = view(pivots, (2, batch, S, D)), view(engine_pivots, (halves, batch, S, D))
    if W:
        taken, conditions = view(head_condition, (halves, batch, r, W)), view(condition, (halves, batch, S, W))

    def work() -> None:
        if D:
            kept[:, image, positions] = rows = given[0, image, positions]  # the conditional half comes first
            check(rows)
        if W:
            taken[:] = conditions[:, image, positions]
            check(taken)

    return work


def _check_finite(view: View, values: int, count: int, state: int, fault: int, component: int) -> Work:
    at, checked = _State(view, state, fault), view(values, (count,))
    return lambda: at.check(checked, FAULT_COMPONENTS[component - 1])


def _start_low(
    view: View, x: int, timestep: int, state: int, timesteps: int, images: int, revealed: int, noise: int, batch: int,
    halves: int, r: int, C: int,
) -> Work:  # fmt: skip
    at, x_of, given = _State(view, state), view(x, (halves, batch * r, C)), view(noise, (batch * r, C))
    clock = (view(timestep, (1,), np.int64), view(timesteps, (BASE_STEPS,), np.int64))

    def work() -> None:
        x_of[:] = given
        at.lower(at["chain_length"] - 1, *clock)

    return work


def _mlp_step(
    view: View, x: int, timestep: int, low_tokens: int, state: int, timesteps: int, chain: int, prediction: int,
    images: int, revealed: int, noise: int, fault: int, batch: int, halves: int, S: int, r: int, C: int,
) -> Work:  # fmt: skip
    at, table = _State(view, state, fault), _table(Chain, view, chain)
    given = view(noise, (batch * r, C))

    def follow(k: int, x_before: Array, predicted: Array) -> Array:
        return mlp_reverse_step(table, k, x_before, predicted, at["guidance"], given, at["temperature"])

    return _mlp(view, at, follow, x, timestep, low_tokens, timesteps, prediction, revealed, batch, halves, S, r, C)


def _mlp_solve(
    view: View, x: int, start: int, timestep: int, low_tokens: int, state: int, timesteps: int, chain: int,
    prediction: int, revealed: int, fault: int, batch: int, halves: int, S: int, r: int, C: int,
) -> Work:  # fmt: skip
    at = _State(view, state, fault)
    follow = _solver(view, at, chain, view(start, (batch * r, C)))
    return _mlp(view, at, follow, x, timestep, low_tokens, timesteps, prediction, revealed, batch, halves, S, r, C)


def _mlp(
    view: View, at: _State, follow: _Follow, x: int, timestep: int, low_tokens: int, timesteps: int, prediction: int,
    revealed: int, batch: int, halves: int, S: int, r: int, C: int,
) -> Work:  # fmt: skip
    x_of, predicted = view(x, (halves, batch * r, C)), view(prediction, (halves * batch * r, 2 * C))
    first = x_of[0]
    tokens, positions = view(low_tokens, (2, batch, S, C)), view(revealed, (batch, r), np.uint32)
    clock = (view(timestep, (1,), np.int64), view(timesteps, (BASE_STEPS,), np.int64))
    image = np.arange(batch)[:, None]

    def work() -> None:
        k = at["k"]
        x_of[:] = follow(k, first, predicted)
        if k == 0:
            tokens[:, image, positions] = first.reshape(batch, r, C)
            at.check_head(first, "mlp")
        at.lower(max(k - 1, 0), *clock)

    return work


def _start_high(
    view: View, x: int, initial: int, timestep: int, state: int, timesteps: int, chain: int, tokens: int, ranks: int,
    images: int, noise: int, batch: int, halves: int, N: int, C: int,
) -> Work:  # fmt: skip
    at, table = _State(view, state), _table(Chain, view, chain)  # any chain's table has what re-noising needs
    shape = (batch, N, C)
    x_of, initial_of, given = view(x, (halves, *shape)), view(initial, shape), view(noise, shape)
    tokens_of, order = view(tokens, shape), view(ranks, (batch, N), np.uint32)
    clock = (view(timestep, (1,), np.int64), view(timesteps, (BASE_STEPS,), np.int64))

    def work() -> None:
        first = at["chain_length"] - 1
        initial_of[:] = given
        x_of[:] = renoise_known(table, first, given, tokens_of, given, order >= at["masked"])
        at.lower(first, *clock)

    return work


def _dit_step(
    view: View, x: int, timestep: int, tokens: int, state: int, timesteps: int, chain: int, prediction: int,
    initial: int, ranks: int, images: int, noise: int, fault: int, batch: int, halves: int, N: int, C: int,
) -> Work:  # fmt: skip
    at, table = _State(view, state, fault), _table(Chain, view, chain)
    given = view(noise, (batch, N, C))

    def follow(k: int, x_before: Array, predicted: Array) -> Array:
        return dit_reverse_step(table, k, x_before, predicted, at["guidance"], given, at["temperature"])

    return _dit(
        view, at, follow, table, x, timestep, tokens, timesteps, prediction, initial, ranks, batch, halves, N, C
    )


def _dit_solve(
    view: View, x: int, start: int, timestep: int, tokens: int, state: int, timesteps: int, chain: int,
    prediction: int, initial: int, ranks: int, fault: int, batch: int, halves: int, N: int, C: int,
) -> Work:  # fmt: skip
    at, table = _State(view, state, fault), _table(SolverChain, view, chain)
    follow = _solver(view, at, chain, view(start, (batch, N, C)))
    return _dit(
        view, at, follow, table, x, timestep, tokens, timesteps, prediction, initial, ranks, batch, halves, N, C
    )


def _dit(
    view: View, at: _State, follow: _Follow, table: AnyChain, x: int, timestep: int, tokens: int, timesteps: int,
    prediction: int, initial: int, ranks: int, batch: int, halves: int, N: int, C: int,
) -> Work:  # fmt: skip
    x_of, predicted = view(x, (halves, batch, N, C)), view(prediction, (halves * batch, N, C))
    tokens_of, initial_of = view(tokens, (2, batch, N, C)), view(initial, (batch, N, C))
    first, first_tokens = x_of[0], tokens_of[0]
    order = view(ranks, (batch, N), np.uint32)
    clock = (view(timestep, (1,), np.int64), view(timesteps, (BASE_STEPS,), np.int64))

    def work() -> None:
        k, known = at["k"], order >= at["masked"]
        following = follow(k, first, predicted)
        if k > 0:
            x_of[:] = renoise_known(table, k - 1, following, first_tokens, initial_of, known)
        else:
            np.copyto(tokens_of, following, where=~known[..., None])
            at.check_head(first_tokens, "dit")
        at.lower(max(k - 1, 0), *clock)

    return work


def _latents(view: View, latents: int, tokens: int, vae_scale: float, batch: int, n: int, channels: int) -> Work:
    to, from_ = view(latents, (batch, channels, n)), view(tokens, (batch, n, channels))

    def work() -> None:
        to[:] = from_.transpose(0, 2, 1) / np.float32(vae_scale)

    return work


def _pack(view: View, pixels: int, images: int, fault: int, batch: int, area: int) -> Work:
    to, from_ = view(pixels, (batch, 1, area, 3), np.uint8), view(images, (batch, 3, 1, area))
    word = view(fault, (1,), np.uint32)

    def work() -> None:
        if np.isfinite(from_).all():
            to[:] = to_uint8(from_)
        elif not word[0]:
            word[0] = FAULT_COMPONENTS.index("vae_decoder") + 1

    return work


def _solver(view: View, at: _State, chain: int, start: NDArray[np.float32]) -> _Follow:
    table = _table(SolverChain, view, chain)

    def follow(k: int, x: Array, predicted: Array) -> Array:
        following, start[:] = solver_step(table, k, x, predicted, at["guidance"], start)
        return following

    return follow


def _table(kind: type[_Kind], view: View, chain: int) -> _Kind:
    """Return the chain whose table (n, 8) lies at an address; what the steps do not use of it is empty."""
    table = view(chain, (BASE_STEPS, len(CHAIN_COLUMNS)))
    columns: dict[str, Any] = {field.name: np.empty(0) for field in fields(kind)}
    names = CHAIN_COLUMNS if kind is Chain else SOLVER_COLUMNS
    return kind(**columns | {name: table[:, column] for column, name in enumerate(names)})


DEFINITIONS: Mapping[str, Definition] = {
    "himar_index_lists": _index_lists,
    "himar_reveal_low": _reveal,
    "himar_check_finite": _check_finite,
    "himar_start_low": _start_low,
    "himar_mlp_step": _mlp_step,
    "himar_mlp_solve": _mlp_solve,
    "himar_start_high": _start_high,
    "himar_dit_step": _dit_step,
    "himar_dit_solve": _dit_solve,
    "himar_latents": _latents,
    "himar_pack": _pack,
}
"""By the name of a launch. Orders are drawn by `Draws`, so `ranks` has none."""
