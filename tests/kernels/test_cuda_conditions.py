"""What a step takes from a transformer must be its own rows, and a value that is not finite must be reported."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import InputError
from himar_kernels.families.hi_mar import describe_fault, launches


def revealed_of(rng: np.random.Generator, batch: int, n: int, count: int) -> np.ndarray:
    return np.sort(np.stack([rng.permutation(n)[:count] for _ in range(batch)]), axis=1).astype(np.uint32)


def reveal(workspace, batch, halves, S, r, W, D, shift=0, poison=None):
    rng = np.random.default_rng([batch, S, r, W, D])
    condition = rng.normal(size=(halves * batch, S, W)).astype(np.float32)
    engine_pivots = rng.normal(size=(halves * batch, S, D)).astype(np.float32)
    before = rng.normal(size=(2 * batch, S, D)).astype(np.float32)
    revealed = revealed_of(rng, batch, S, r)
    if poison is not None:
        poison(condition, engine_pivots, revealed)
    head_condition = workspace.empty((halves * batch * r, W), shift=shift)
    pivots, fault = workspace.put(before, shift), workspace.fault()
    workspace.run(
        launches.reveal_low(
            head_condition=head_condition,
            pivots=pivots,
            condition=workspace.put(condition),
            engine_pivots=workspace.put(engine_pivots),
            revealed=workspace.put(revealed),
            state=workspace.state(step=9, masked=S, revealed=r),
            fault=fault,
            batch=batch,
            halves=halves,
            S=S,
            r=r,
            W=W,
            D=D,
        )
    )
    image = np.arange(batch)[:, None]
    expected = before.reshape(2, batch, S, D).copy()
    expected[:, image, revealed] = engine_pivots[image, revealed]
    rows = condition.reshape(halves, batch, S, W)[:, image, revealed].reshape(-1, W)
    assert np.array_equal(workspace.get(head_condition), rows, equal_nan=True)
    assert np.array_equal(workspace.get(pivots), expected.reshape(before.shape), equal_nan=True)
    return int(workspace.get(fault))


@pytest.mark.parametrize(
    ("batch", "halves", "S", "r", "W", "D", "shift"),
    [
        (1, 1, 1, 1, 1, 1, 0),
        (3, 2, 49, 7, 24, 12, 0),
        (3, 2, 49, 7, 24, 12, 4),  # not aligned to 16 bytes
        (2, 2, 9, 9, 17, 16, 0),
        (2, 1, 16, 3, 16, 3, 0),
    ],
)
def test_rows_of_the_revealed_positions_are_gathered(workspace, batch, halves, S, r, W, D, shift):
    assert reveal(workspace, batch, halves, S, r, W, D, shift) == 0


@pytest.mark.parametrize(("halves", "phase"), [(1, "low"), (2, "high")])
def test_conditions_alone_and_pivots_alone_are_gathered(workspace, halves, phase):
    """Phases of variants: an MLP head without pivots, and pivots before a DiT head."""
    rng = np.random.default_rng(halves)
    batch, n, r, W = 3, 25, 4, 10
    condition = rng.normal(size=(halves * batch, n, W)).astype(np.float32)
    revealed = revealed_of(rng, batch, n, r)
    image = np.arange(batch)[:, None]
    state = workspace.state(step=2, masked=n, revealed=r, phase=int(phase == "high"))
    common = {"revealed": workspace.put(revealed), "state": state, "batch": batch, "halves": halves, "r": r}

    rows, fault = workspace.empty((halves * batch * r, W)), workspace.fault()
    given = workspace.put(condition)
    workspace.run(launches.reveal_conditions(head_condition=rows, condition=given, fault=fault, n=n, W=W, **common))
    expected = condition.reshape(halves, batch, n, W)[:, image, revealed].reshape(-1, W)
    assert np.array_equal(workspace.get(rows), expected)
    assert workspace.get(fault) == 0

    before = rng.normal(size=(2 * batch, n, W)).astype(np.float32)
    condition[0, revealed[0, 0], -1] = np.nan
    pivots, given = workspace.put(before), workspace.put(condition)
    workspace.run(launches.reveal_pivots(pivots=pivots, engine_pivots=given, fault=fault, S=n, D=W, **common))
    kept = before.reshape(2, batch, n, W)
    kept[:, image, revealed] = condition[:batch][image, revealed]
    assert np.array_equal(workspace.get(pivots), before, equal_nan=True)
    assert describe_fault(int(workspace.get(fault))) == (f"transformer_{phase}", 2)


FITS = {"revealed": 8, "state": 8, "fault": 8, "batch": 1, "halves": 1, "r": 2}
CONDITIONS = {**FITS, "head_condition": 8, "condition": 8, "n": 25, "W": 3}
PIVOTS = {**FITS, "pivots": 8, "engine_pivots": 8, "S": 25, "D": 3}


@pytest.mark.parametrize(
    ("launch", "fits", "changes", "named"),
    [
        (launches.reveal_conditions, CONDITIONS, {"W": 0}, "W is 0"),
        (launches.reveal_conditions, CONDITIONS, {"r": 26}, "r is 26; it must be 1 to 25"),
        (launches.reveal_conditions, CONDITIONS, {"halves": 3}, "halves is 3"),
        (launches.reveal_conditions, CONDITIONS, {"condition": 0}, "condition has no address"),
        (launches.reveal_pivots, PIVOTS, {"D": 0}, "D is 0"),
        (launches.reveal_pivots, PIVOTS, {"S": 0}, "S is 0"),
        (launches.reveal_pivots, PIVOTS, {"halves": 0}, "halves is 0"),
        (launches.reveal_pivots, PIVOTS, {"pivots": 0}, "pivots has no address"),
    ],
)
def test_a_gathering_that_does_not_fit_is_refused(launch, fits, changes, named):
    launch(**fits)
    with pytest.raises(InputError, match=named):
        launch(**{**fits, **changes})


@pytest.mark.parametrize(("batch", "S", "r", "W", "D"), [(128, 64, 9, 320, 256), (64, 256, 256, 64, 65)])
def test_large_batches(large_workspace, batch, S, r, W, D):
    assert reveal(large_workspace, batch, 2, S, r, W, D) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_revealed_row_that_is_not_finite_is_a_fault_of_the_transformer(workspace, value):
    def poison(condition, engine_pivots, revealed):
        condition[2, revealed[0, -1], -1] = value  # the unconditional row of image 0

    fault = reveal(workspace, 2, 2, 9, 4, 5, 8, poison=poison)
    assert describe_fault(fault) == ("transformer_low", 9)


def test_rows_that_are_not_revealed_may_hold_anything(workspace):
    def poison(condition, engine_pivots, revealed):
        hidden = np.setdiff1d(np.arange(9), revealed[0])
        condition[0, hidden] = np.nan
        engine_pivots[2:] = np.nan  # pivots are the conditional rows'

    assert reveal(workspace, 2, 2, 9, 4, 5, 8, poison=poison) == 0


@pytest.mark.parametrize("count", [1, 3, 4, 1025, 4096])
@pytest.mark.parametrize("shift", [0, 4])
def test_a_single_value_that_is_not_finite_is_found_anywhere(workspace, count, shift):
    values = np.full(count, np.float32(3.4e38))
    address, state = workspace.put(values, shift), workspace.state(step=3)
    for where in {0, count // 2, count - 1, None}:
        fault = workspace.fault()
        poisoned = values.copy()
        if where is not None:
            poisoned[where] = np.nan if where % 2 else -np.inf
        workspace.set(address, poisoned)
        workspace.run(launches.check_finite(values=address, count=count, state=state, fault=fault, component=2))
        word = int(workspace.get(fault))
        assert word == 0 if where is None else describe_fault(word) == ("transformer_high", 3)


def test_the_first_fault_stays(workspace):
    fault = workspace.fault(3 | 5 << 8)
    values = workspace.put(np.array([np.nan], np.float32))
    state = workspace.state(step=6)
    workspace.run(launches.check_finite(values=values, count=1, state=state, fault=fault, component=4))
    assert describe_fault(int(workspace.get(fault))) == ("mlp_head", 5)
