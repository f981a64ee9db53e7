"""The DiT head's reverse step on a device must be NumPy's, known positions following their tokens."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import ImageDraws
from himar_kernels.families.hi_mar import (
    Chain,
    chain_table,
    describe_fault,
    dit_reverse_step,
    known_positions,
    launches,
    renoise_known,
)

SEED, STEP, STEPS = 2**32 + 1, 3, 15
CHAIN = Chain.build(STEPS)
GUIDANCE, TEMPERATURE = 2.25, 1.03


class Case:
    """Random inputs of one autoregressive step of phase high, on a workspace."""

    def __init__(
        self, workspace, batch: int, halves: int, N: int, masked: int, C: int, recorded: bool, shift: int
    ) -> None:
        rng = np.random.default_rng([batch, halves, N, masked, C])
        self.workspace, self.recorded, self.masked = workspace, recorded, masked
        self.sizes = {"batch": batch, "halves": halves, "N": N, "C": C}
        self.images = np.arange(batch)
        self.draws = ImageDraws([SEED * (1 + i // 2) for i in range(batch)], 7 + self.images % 3)
        order = self.draws.order("high", N, self.images)
        self.known = known_positions(order, masked)
        self.guidance = GUIDANCE if halves == 2 else 1.0
        self.x = rng.normal(size=(batch, N, C)).astype(np.float32)
        self.tokens = rng.normal(size=(2 * batch, N, C)).astype(np.float32)
        self.tokens[~np.concatenate([self.known] * 2)] = np.nan  # nothing may read a masked position's token
        self.tokens[batch:][self.known] = self.tokens[:batch][self.known]
        self.prediction = rng.normal(size=(halves * batch, N, C)).astype(np.float32)
        self.initial = rng.normal(size=(batch, N, C)).astype(np.float32)
        self.given = rng.normal(size=(batch, N, C)).astype(np.float32)
        self.on_device = {
            "x": workspace.put(np.concatenate([self.x] * halves), shift),
            "initial": workspace.put(self.initial, shift),
            "timestep": workspace.empty((1,), np.int64),
            "timesteps": workspace.put(CHAIN.timesteps),
            "chain": workspace.put(chain_table(CHAIN)),
            "tokens": workspace.put(self.tokens, shift),
            "ranks": workspace.put(np.argsort(order, axis=1).astype(np.uint32)),
            "origins": workspace.origins(self.draws, self.images),
            "noise": workspace.put(self.given, shift) if recorded else None,
        }
        self.step_only = {"prediction": workspace.put(self.prediction, shift), "fault": workspace.fault()}

    def state(self, k: int) -> int:
        sizes = {"masked": self.masked, "revealed": 1, "chain_length": STEPS, "k": k}
        scales = {"guidance": self.guidance, "temperature": TEMPERATURE}
        return self.workspace.state(phase=1, step=STEP, **sizes, **scales)

    def start(self, state: int) -> None:
        self.workspace.run(launches.start_high(state=state, **self.on_device, **self.sizes))

    def step(self, state: int) -> None:
        self.workspace.run(launches.dit_step(state=state, **self.on_device, **self.step_only, **self.sizes))

    def noise(self, k: int | None) -> np.ndarray:
        """Noise (B, N, C) of a k, or the initial noise."""
        where = (self.images, np.tile(np.arange(self.sizes["N"]), (self.sizes["batch"], 1)), self.sizes["C"])
        if self.recorded:
            return self.given
        if k is None:
            return self.draws.initial_noise("high", STEP, *where)
        return self.draws.noise("high", STEP, [k], *where)[0]

    def renoised(self, k: int, x: np.ndarray, initial: np.ndarray) -> np.ndarray:
        return renoise_known(CHAIN, k, x, self.tokens[: len(x)], initial, self.known)

    def expected(self, k: int) -> np.ndarray:
        noise = self.noise(k) if k else None
        return dit_reverse_step(CHAIN, k, self.x, self.prediction, self.guidance, noise, TEMPERATURE)

    def get(self, name: str) -> np.ndarray:
        return self.workspace.get({**self.on_device, **self.step_only}[name])

    def check_chain_index(self, state: int, k: int) -> None:
        held = self.workspace.get(state)
        assert (held["k"], held["tickets"]) == (k, 0)
        assert self.get("timestep")[0] == CHAIN.timesteps[k]


SHAPES = [  # batch, halves, N, masked, C, recorded, shift
    (1, 1, 1, 1, 1, False, 0),
    (3, 2, 49, 20, 16, False, 0),
    (3, 2, 49, 20, 16, True, 4),  # not aligned to 16 bytes
    (2, 2, 64, 64, 17, False, 0),
    (2, 1, 25, 1, 3, True, 0),
    (64, 2, 16, 5, 16, False, 0),
]
LARGE = [(128, 2, 256, 100, 16, False, 0), (8, 2, 1024, 1, 16, False, 0), (1, 2, 5000, 2500, 17, False, 0)]


def check_start(case: Case, assert_close) -> None:
    state = case.state(k=2)
    case.start(state)
    noise = case.noise(None)
    assert_close(case.get("initial"), noise)
    start = case.renoised(STEPS - 1, noise, noise)
    assert_close(case.get("x"), np.concatenate([start] * case.sizes["halves"]))
    case.check_chain_index(state, STEPS - 1)


def check_step(case: Case, k: int, assert_close) -> None:
    state = case.state(k)
    case.step(state)
    result = case.expected(k)
    following = case.renoised(k - 1, result, case.initial) if k else np.where(case.known[..., None], case.x, result)
    assert_close(case.get("x"), np.concatenate([following] * case.sizes["halves"]))
    if k == 0:
        tokens = np.where(case.known[..., None], case.tokens[: len(result)], result)
        assert_close(case.get("tokens"), np.concatenate([tokens] * 2))
    else:
        assert np.array_equal(case.get("tokens"), case.tokens, equal_nan=True)
    case.check_chain_index(state, max(0, k - 1))
    assert case.get("fault") == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_the_chain_starts_from_noise_and_renoised_tokens(workspace, assert_close, shape):
    check_start(Case(workspace, *shape), assert_close)


@pytest.mark.parametrize("k", [STEPS - 1, 4, 1, 0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_reverse_step(workspace, assert_close, shape, k):
    check_step(Case(workspace, *shape), k, assert_close)


@pytest.mark.parametrize("shape", LARGE)
def test_large_batches_and_many_positions(large_workspace, assert_close, shape):
    check_start(Case(large_workspace, *shape), assert_close)
    check_step(Case(large_workspace, *shape), 9, assert_close)
    check_step(Case(large_workspace, *shape), 0, assert_close)


@pytest.mark.parametrize(("k", "known", "fault"), [(0, False, ("dit_head", STEP)), (0, True, None), (3, False, None)])
def test_only_a_token_that_is_kept_is_checked(workspace, k, known, fault):
    case = Case(workspace, 2, 2, 9, 3, 5, False, 0)
    position = int(np.flatnonzero(case.known[1] == known)[0])
    case.prediction[1, position, 4] = np.nan
    workspace.set(case.step_only["prediction"], case.prediction)
    case.step(case.state(k))
    word = int(case.get("fault"))
    assert word == 0 if fault is None else describe_fault(word) == fault


def test_steps_queued_without_waiting_walk_the_whole_chain(large_workspace, assert_close):
    """The index in the chain lives on the device: the host queues every step at once and looks at the end."""
    case = Case(large_workspace, 32, 2, 256, 100, 16, False, 0)
    state = case.state(k=0)
    start = launches.start_high(state=state, **case.on_device, **case.sizes)
    step = launches.dit_step(state=state, **case.on_device, **case.step_only, **case.sizes)
    large_workspace.run(start, *[step] * STEPS)

    x = initial = case.noise(None)
    for k in range(STEPS - 1, -1, -1):
        x = case.renoised(k, x, initial)
        noise = case.noise(k) if k else None
        x = dit_reverse_step(CHAIN, k, x, case.prediction, case.guidance, noise, TEMPERATURE)
    tokens = np.where(case.known[..., None], case.tokens[: len(x)], x)
    assert_close(case.get("tokens"), np.concatenate([tokens] * 2), 2e-6)
    case.check_chain_index(state, 0)
    assert case.get("fault") == 0
