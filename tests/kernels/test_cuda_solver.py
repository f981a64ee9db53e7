"""The steps of the solvers without noise on a device must be NumPy's, down whole chains of both heads.

A fixed function stands for each head. `x`, `start` and the tokens stand at addresses that rows can and cannot be read
from 16 bytes at a time.
"""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import (
    SolverChain,
    chain_table,
    describe_fault,
    known_positions,
    launches,
    renoise_known,
    solver_step,
)

SEED, STEP, STEPS = 2**40 + 7, 2, 5
GUIDANCE = 2.25
SHAPES = [  # batch, halves, positions, chosen (revealed or masked), C, shift
    (3, 2, 9, 4, 16, 0),
    (2, 2, 9, 5, 16, 4),  # not aligned to 16 bytes
    (2, 1, 16, 16, 3, 0),
]
LARGE = (64, 2, 256, 100, 16, 0)


def predicted(x: np.ndarray, k: int, outputs: int) -> np.ndarray:
    """ε of each half, which differ, and then v for an MLP head, which no solver may read: it is not finite."""
    row = np.linspace(0, 1, len(x), dtype=np.float32).reshape(-1, *[1] * (x.ndim - 1))
    halves = np.tanh(x) * np.float32(1 + k / 9) + row
    return np.concatenate([halves, np.full_like(halves, np.nan)][:outputs], axis=-1)


class Case:
    """Random inputs of one autoregressive step of either phase, on a workspace."""

    def __init__(self, workspace, solver: str, head: str, shape: tuple[int, ...]) -> None:
        batch, halves, positions, chosen, C, shift = shape
        rng = np.random.default_rng(shape)
        self.workspace, self.head, self.halves, self.batch = workspace, head, halves, batch
        self.chain = SolverChain.build(solver, STEPS)
        self.guidance = GUIDANCE if halves == 2 else 1.0
        images = np.arange(5, 5 + batch)
        order = PhiloxDraws(SEED).order("high", positions, images)
        masked = positions if head == "mlp" else chosen
        self.known = known_positions(order, masked)
        self.revealed = np.sort(order[:, :chosen], axis=1)
        self.tokens = rng.normal(size=(2 * batch, positions, C)).astype(np.float32)
        if head == "dit":
            self.tokens[batch:] = self.tokens[:batch]
            self.tokens[~np.concatenate([self.known] * 2)] = np.nan  # nothing may read a masked position's token
        rows = (batch, positions, C) if head == "dit" else (batch * chosen, C)
        self.initial = rng.normal(size=rows).astype(np.float32)
        state = {"phase": int(head == "dit"), "step": STEP, "masked": masked, "revealed": chosen}
        self.state = workspace.state(**state, chain_length=STEPS, k=STEPS - 1, guidance=self.guidance)
        self.fault = workspace.fault()
        self.timestep = workspace.empty((1,), np.int64)
        start = self.initial if head == "mlp" else self._renoised(STEPS - 1, self.initial)
        self.x = workspace.put(np.concatenate([start] * halves), shift)
        self.start = workspace.empty(rows, shift=shift)  # NaN: the first step may not read it
        self.tokens_there = workspace.put(self.tokens, shift)
        outputs = 2 if head == "mlp" else 1
        self.prediction = workspace.empty((halves * rows[0], *rows[1:-1], outputs * C), shift=shift)
        common = {
            "x": self.x, "start": self.start, "timestep": self.timestep, "state": self.state, "fault": self.fault,
            "timesteps": workspace.put(self.chain.timesteps), "chain": workspace.put(chain_table(self.chain)),
            "prediction": self.prediction, "batch": batch, "halves": halves, "C": C,
        }  # fmt: skip
        if head == "mlp":
            revealed = workspace.put(self.revealed.astype(np.uint32))
            own = {"low_tokens": self.tokens_there, "revealed": revealed, "S": positions, "r": chosen}
            self.launch = launches.mlp_solve(**common, **own)
        else:
            own = {"tokens": self.tokens_there, "initial": workspace.put(self.initial, shift), "N": positions}
            ranks = workspace.put(np.argsort(order, axis=1).astype(np.uint32))
            self.launch = launches.dit_solve(**common, **own, ranks=ranks)

    def _renoised(self, k: int, x: np.ndarray) -> np.ndarray:
        if self.head == "mlp":
            return x
        return renoise_known(self.chain, k, x, self.tokens[: self.batch], self.initial, self.known)

    def step(self, k: int) -> None:
        x = self.workspace.get(self.x)
        self.workspace.set(self.prediction, predicted(x, k, 2 if self.head == "mlp" else 1))
        self.workspace.run(self.launch)

    def down(self) -> np.ndarray:
        """The whole chain in NumPy: what it ends at."""
        x, start = self.initial, None
        for k in range(STEPS - 1, -1, -1):
            x = self._renoised(k, x)
            prediction = predicted(np.concatenate([x] * self.halves), k, 2 if self.head == "mlp" else 1)
            x, start = solver_step(self.chain, k, x, prediction, self.guidance, start)
        return x

    def expected_tokens(self) -> np.ndarray:
        tokens, end = self.tokens.reshape(2, self.batch, *self.tokens.shape[1:]).copy(), self.down()
        if self.head == "mlp":
            tokens[:, np.arange(self.batch)[:, None], self.revealed] = end.reshape(*self.revealed.shape, -1)
        else:
            tokens = np.where(self.known[..., None], tokens, end)
        return tokens.reshape(self.tokens.shape)


def check(case: Case, assert_close) -> None:
    for k in range(STEPS - 1, -1, -1):
        held = case.workspace.get(case.state)
        assert (held["k"], held["tickets"]) == (k, 0)
        case.step(k)
        assert case.workspace.get(case.timestep)[0] == case.chain.timesteps[max(0, k - 1)]
    assert_close(case.workspace.get(case.tokens_there), case.expected_tokens(), 2e-6)
    assert case.workspace.get(case.fault) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("head", ["mlp", "dit"])
def test_a_chain_of_the_second_order(workspace, assert_close, head, shape):
    check(Case(workspace, "dpm++", head, shape), assert_close)


@pytest.mark.parametrize("head", ["mlp", "dit"])
def test_ddim_and_large_batches(large_workspace, assert_close, head):
    check(Case(large_workspace, "ddim", head, SHAPES[1]), assert_close)
    check(Case(large_workspace, "dpm++", head, LARGE), assert_close)


@pytest.mark.parametrize("head", ["mlp", "dit"])
def test_only_a_token_that_is_kept_is_checked(large_workspace, head):
    case = Case(large_workspace, "ddim", head, SHAPES[0])
    for k in range(STEPS - 1, -1, -1):
        assert case.workspace.get(case.fault) == 0
        case.step(k)
        if k == 1:  # what the last step is given
            case.workspace.set(case.x, np.full_like(case.workspace.get(case.x), np.inf))
    assert describe_fault(int(case.workspace.get(case.fault))) == (f"{head}_head", STEP)
