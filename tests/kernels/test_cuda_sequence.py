"""Whole autoregressive steps, launch after launch: nothing but the head's prediction comes from outside.

A fixed function stands for each head, so the kernels' loop and NumPy's run the same network.
"""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import ImageDraws
from himar_kernels.families.hi_mar import (
    Chain,
    SamplingConfig,
    Step,
    chain_table,
    dit_reverse_step,
    index_lists,
    known_positions,
    launches,
    mlp_reverse_step,
    plan_phase,
    renoise_known,
    revealed_positions,
    step_state,
)

BATCH, HALVES, C, STEPS = 3, 2, 5, 40
S, N, CONTEXT, W, D = 9, 25, 2, 6, 4
IMAGES = np.arange(BATCH)
CHAIN = Chain.build(STEPS)
DRAWS = ImageDraws([2**50 + 9, 3, 2**50 + 9], [4, 4, 6])
TEMPERATURE = 0.95
SAMPLING = SamplingConfig(
    low_steps=4,
    low_guidance=3.0,
    low_diffusion_steps=STEPS,
    high_steps=3,
    high_guidance=2.5,
    high_diffusion_steps=STEPS,
)


def head(x: np.ndarray, timestep: int, outputs: int) -> np.ndarray:
    """Predict the noise that would have led from a fixed point, which differs by row, to this state; then v."""
    k = int(np.searchsorted(CHAIN.timesteps, timestep))
    point = np.arange(len(x), dtype=np.float32).reshape(-1, *[1] * (x.ndim - 1)) / 7 + np.tanh(x) / 9
    noise = (x - CHAIN.sqrt_alphas_cumprod[k] * point) / CHAIN.sqrt_one_minus_alphas_cumprod[k]
    return np.concatenate([noise, np.sin(3 * x)][:outputs], axis=-1).astype(np.float32)


class Device:
    """The arrays of a run on a workspace, made once as a runtime would."""

    def __init__(self, workspace, seen: int, positions: int) -> None:
        self.workspace, self.positions = workspace, positions
        self.origins = workspace.origins(DRAWS, IMAGES)
        self.ranks = workspace.empty((BATCH, positions), np.uint32)
        self.timestep = workspace.empty((1,), np.int64)
        self.timesteps, self.chain = workspace.put(CHAIN.timesteps), workspace.put(chain_table(CHAIN))
        self.tokens = workspace.put(np.zeros((2 * BATCH, positions, C), np.float32))
        self.fault, self.always = workspace.fault(), seen

    def common(self, step: Step) -> dict[str, int]:
        state = self.workspace.put(step_state(step, TEMPERATURE))
        return {"state": state, "batch": BATCH, "halves": HALVES}

    def lists(self, step: Step, common: dict[str, int]) -> int:
        """Make ranks and index lists, compare them with NumPy's, and return the revealed positions' address."""
        order = DRAWS.order(step.phase, self.positions, IMAGES)
        known = known_positions(order, step.masked)
        known = np.concatenate([np.ones((BATCH, self.always), bool), known], axis=1)
        expected = index_lists(np.concatenate([known] * HALVES), CONTEXT, S + N)
        visible = self.workspace.empty(expected.visible.shape, np.int64)
        sources = self.workspace.empty(expected.sources.shape, np.int64)
        revealed = self.workspace.empty((BATCH, step.revealed), np.uint32)
        phase, n = 0 if step.phase == "low" else 1, self.positions
        self.workspace.run(
            launches.ranks(ranks=self.ranks, origins=self.origins, phase=phase, batch=BATCH, n=n),
            launches.index_lists(
                visible=visible,
                sources=sources,
                revealed=revealed,
                ranks=self.ranks,
                context=CONTEXT,
                always=self.always,
                n=n,
                positions=S + N,
                **common,
            ),
        )
        assert np.array_equal(self.workspace.get(visible), expected.visible)
        assert np.array_equal(self.workspace.get(sources), expected.sources)
        assert np.array_equal(self.workspace.get(revealed), revealed_positions(order, step))
        return revealed

    def run_head(self, x: int, prediction: int, outputs: int) -> None:
        timestep = int(self.workspace.get(self.timestep)[0])
        self.workspace.set(prediction, head(self.workspace.get(x), timestep, outputs))


def low_step(step: Step, tokens: np.ndarray) -> None:
    """One step of phase low in NumPy: fill the revealed tokens (B, S, C)."""
    revealed = revealed_positions(DRAWS.order("low", S, IMAGES), step)
    x = DRAWS.initial_noise("low", step.index, IMAGES, revealed, C).reshape(-1, C)
    for k in range(STEPS - 1, -1, -1):
        noise = DRAWS.noise("low", step.index, [k], IMAGES, revealed, C).reshape(-1, C)
        prediction = head(np.concatenate([x] * HALVES), int(CHAIN.timesteps[k]), 2)
        x = mlp_reverse_step(CHAIN, k, x, prediction, step.guidance, noise, TEMPERATURE)
    tokens[np.arange(BATCH)[:, None], revealed] = x.reshape(BATCH, -1, C)


def high_step(step: Step, tokens: np.ndarray) -> np.ndarray:
    """One step of phase high in NumPy: return the tokens (B, N, C) after it."""
    known = known_positions(DRAWS.order("high", N, IMAGES), step.masked)
    where = (IMAGES, np.tile(np.arange(N), (BATCH, 1)), C)
    x = initial = DRAWS.initial_noise("high", step.index, *where)
    for k in range(STEPS - 1, -1, -1):
        x = renoise_known(CHAIN, k, x, tokens, initial, known)
        prediction = head(np.concatenate([x] * HALVES), int(CHAIN.timesteps[k]), 1)
        noise = DRAWS.noise("high", step.index, [k], *where)[0]
        x = dit_reverse_step(CHAIN, k, x, prediction, step.guidance, noise, TEMPERATURE)
    return np.where(known[..., None], tokens, x)


def test_phase_low_from_its_first_step_to_its_last(workspace, assert_close):
    device = Device(workspace, 0, S)
    rng = np.random.default_rng(0)
    pivots = workspace.put(np.zeros((2 * BATCH, S, D), np.float32))
    tokens, expected_pivots = np.zeros((BATCH, S, C), np.float32), np.zeros((BATCH, S, D), np.float32)
    for step in plan_phase(SAMPLING, "low", S):
        common, r = device.common(step), step.revealed
        revealed = device.lists(step, common)
        rows = HALVES * BATCH * r
        condition, head_condition = rng.normal(size=(HALVES * BATCH, S, W)), workspace.empty((rows, W))
        engine_pivots = rng.normal(size=(HALVES * BATCH, S, D)).astype(np.float32)
        workspace.run(
            launches.reveal_low(
                head_condition=head_condition,
                pivots=pivots,
                condition=workspace.put(condition.astype(np.float32)),
                engine_pivots=workspace.put(engine_pivots),
                revealed=revealed,
                fault=device.fault,
                S=S,
                r=r,
                W=W,
                D=D,
                **common,
            )
        )
        x, prediction = workspace.empty((rows, C)), workspace.empty((rows, 2 * C))
        walk = {"x": x, "timestep": device.timestep, "timesteps": device.timesteps, "origins": device.origins}
        walk |= {"revealed": revealed, "r": r, "C": C, **common}
        workspace.run(launches.start_low(**walk))
        for _ in range(STEPS):
            device.run_head(x, prediction, 2)
            workspace.run(
                launches.mlp_step(
                    low_tokens=device.tokens,
                    chain=device.chain,
                    prediction=prediction,
                    fault=device.fault,
                    S=S,
                    **walk,
                )
            )
        low_step(step, tokens)
        assert_close(workspace.get(device.tokens), np.concatenate([tokens] * 2), 2e-6)
        known = revealed_positions(DRAWS.order("low", S, IMAGES), step)
        image = np.arange(BATCH)[:, None]
        expected_pivots[image, known] = engine_pivots[image, known]
    assert np.array_equal(workspace.get(pivots), np.concatenate([expected_pivots] * 2))
    assert workspace.get(device.fault) == 0


def test_phase_high_from_its_first_step_to_its_last(workspace, assert_close):
    device = Device(workspace, S, N)
    tokens = np.zeros((BATCH, N, C), np.float32)
    x, prediction = (workspace.empty((HALVES * BATCH, N, C)) for _ in range(2))
    initial = workspace.empty((BATCH, N, C))
    for step in plan_phase(SAMPLING, "high", N):
        common = device.common(step)
        device.lists(step, common)
        walk = {"x": x, "initial": initial, "timestep": device.timestep, "timesteps": device.timesteps, "N": N, "C": C}
        walk |= {"chain": device.chain, "tokens": device.tokens, "ranks": device.ranks, "origins": device.origins}
        workspace.run(launches.start_high(**walk, **common))
        for _ in range(STEPS):
            device.run_head(x, prediction, 1)
            workspace.run(launches.dit_step(prediction=prediction, fault=device.fault, **walk, **common))
        tokens = high_step(step, tokens)
        assert_close(workspace.get(device.tokens), np.concatenate([tokens] * 2), 2e-6)
    assert workspace.get(device.fault) == 0


@pytest.mark.parametrize("phase", ["low", "high"])
def test_a_state_that_no_kernel_has_touched_starts_at_the_end_of_the_chain(phase):
    step = Step(phase, 2, 7, 4, 3, 1.5, STEPS)
    state = step_state(step, 0.5)
    assert state.nbytes == 64
    assert (state["k"], state["masked"], state["revealed"], state["step"]) == (STEPS - 1, 7, 3, 2)
    assert state["phase"] == (phase == "high")
