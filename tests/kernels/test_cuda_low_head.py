"""The MLP head's reverse step on a device must be NumPy's, at every k, shape and alignment."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import ImageDraws
from himar_kernels.families.hi_mar import Chain, chain_table, describe_fault, launches, mlp_reverse_step

SEED, STEP, STEPS = 2**64 - 3, 21, 12
CHAIN = Chain.build(STEPS)
GUIDANCE, TEMPERATURE = 2.75, 0.97


class Case:
    """Random inputs of one autoregressive step of phase low, on a workspace."""

    def __init__(self, workspace, batch: int, halves: int, S: int, r: int, C: int, recorded: bool, shift: int) -> None:
        rng = np.random.default_rng([batch, halves, S, r, C])
        self.workspace, self.recorded = workspace, recorded
        self.sizes = {"batch": batch, "halves": halves, "r": r, "C": C}
        self.S, self.rows = S, batch * r
        self.images = np.arange(batch)
        self.draws = ImageDraws([(SEED + 2**33 * i) % 2**64 for i in range(batch)], 2**32 - 1 - self.images // 2)
        self.revealed = np.sort(np.stack([rng.permutation(S)[:r] for _ in range(batch)]), axis=1)
        self.guidance = GUIDANCE if halves == 2 else 1.0
        self.x = rng.normal(size=(self.rows, C)).astype(np.float32)
        self.prediction = rng.normal(size=(halves * self.rows, 2 * C)).astype(np.float32)
        self.low_tokens = rng.normal(size=(2 * batch, S, C)).astype(np.float32)
        self.given = rng.normal(size=(batch, r, C)).astype(np.float32)
        self.on_device = {
            "x": workspace.put(np.tile(self.x, (halves, 1)), shift),
            "timestep": workspace.empty((1,), np.int64),
            "timesteps": workspace.put(CHAIN.timesteps),
            "origins": workspace.origins(self.draws, self.images),
            "revealed": workspace.put(self.revealed.astype(np.uint32)),
            "noise": workspace.put(self.given, shift) if recorded else None,
        }
        self.step_only = {
            "low_tokens": workspace.put(self.low_tokens, shift),
            "chain": workspace.put(chain_table(CHAIN)),
            "prediction": workspace.put(self.prediction, shift),
            "fault": workspace.fault(),
            "S": S,
        }

    def state(self, k: int) -> int:
        sizes = {"masked": self.S, "revealed": self.sizes["r"], "chain_length": STEPS, "k": k}
        scales = {"guidance": self.guidance, "temperature": TEMPERATURE}
        return self.workspace.state(phase=0, step=STEP, **sizes, **scales)

    def start(self, state: int) -> None:
        self.workspace.run(launches.start_low(state=state, **self.on_device, **self.sizes))

    def step(self, state: int) -> None:
        self.workspace.run(launches.mlp_step(state=state, **self.on_device, **self.step_only, **self.sizes))

    def noise(self, k: int | None) -> np.ndarray:
        """Noise (B·r, C) of a k, or the initial noise."""
        where = (self.images, self.revealed, self.sizes["C"])
        if self.recorded:
            drawn = self.given
        elif k is None:
            drawn = self.draws.initial_noise("low", STEP, *where)
        else:
            drawn = self.draws.noise("low", STEP, [k], *where)[0]
        return drawn.reshape(self.rows, -1)

    def expected(self, k: int) -> np.ndarray:
        noise = self.noise(k) if k else None
        return mlp_reverse_step(CHAIN, k, self.x, self.prediction, self.guidance, noise, TEMPERATURE)

    def get(self, name: str) -> np.ndarray:
        return self.workspace.get({**self.on_device, **self.step_only}[name])

    def check_chain_index(self, state: int, k: int) -> None:
        held = self.workspace.get(state)
        assert (held["k"], held["tickets"]) == (k, 0)
        assert self.get("timestep")[0] == CHAIN.timesteps[k]


SHAPES = [  # batch, halves, S, r, C, recorded, shift
    (1, 1, 1, 1, 1, False, 0),
    (3, 2, 49, 7, 16, False, 0),
    (3, 2, 49, 7, 16, True, 4),  # not aligned to 16 bytes
    (2, 2, 9, 9, 17, False, 0),
    (2, 1, 25, 2, 3, True, 0),
    (64, 2, 64, 3, 16, False, 0),
]
LARGE = [(128, 2, 64, 9, 16, False, 0), (64, 2, 256, 256, 16, False, 0), (1, 2, 5000, 4999, 17, False, 0)]


def check_start(case: Case, assert_close) -> None:
    state = case.state(k=5)
    case.start(state)
    assert_close(case.get("x"), np.tile(case.noise(None), (case.sizes["halves"], 1)))
    case.check_chain_index(state, STEPS - 1)


def check_step(case: Case, k: int, assert_close) -> None:
    state = case.state(k)
    case.step(state)
    expected = case.expected(k)
    assert_close(case.get("x"), np.tile(expected, (case.sizes["halves"], 1)))
    case.check_chain_index(state, max(0, k - 1))
    tokens = case.low_tokens.reshape(2, -1, case.S, case.sizes["C"]).copy()
    if k == 0:
        image = np.arange(case.sizes["batch"])[:, None]
        tokens[:, image, case.revealed] = expected.reshape(*case.revealed.shape, -1)
    assert_close(case.get("low_tokens"), tokens.reshape(case.low_tokens.shape))
    assert case.get("fault") == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_the_chain_starts_from_the_seed_s_or_the_recorded_noise(workspace, assert_close, shape):
    check_start(Case(workspace, *shape), assert_close)


@pytest.mark.parametrize("k", [STEPS - 1, 4, 1, 0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_reverse_step(workspace, assert_close, shape, k):
    check_step(Case(workspace, *shape), k, assert_close)


@pytest.mark.parametrize("shape", LARGE)
def test_large_batches_and_many_positions(large_workspace, assert_close, shape):
    check_start(Case(large_workspace, *shape), assert_close)
    check_step(Case(large_workspace, *shape), 7, assert_close)
    check_step(Case(large_workspace, *shape), 0, assert_close)


@pytest.mark.parametrize(("k", "fault"), [(0, ("mlp_head", STEP)), (3, None)])
def test_a_token_that_is_not_finite_is_a_fault_of_the_head(workspace, k, fault):
    case = Case(workspace, 2, 2, 9, 3, 5, False, 0)
    case.prediction[-1, 4] = np.inf  # the last channel of the last unconditional row
    workspace.set(case.step_only["prediction"], case.prediction)
    case.step(case.state(k))
    word = int(case.get("fault"))
    assert word == 0 if fault is None else describe_fault(word) == fault
