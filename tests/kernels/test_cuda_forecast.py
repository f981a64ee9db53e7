"""What a device keeps of evaluations and forecasts from them must be NumPy's, bit for bit, down a whole chain."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels.families.hi_mar import Evaluations, Predictions, launches

STEPS, GUIDANCE = 20, 2.25
SHAPES = [  # rows, halves, outputs, C, shift
    (6, 2, 1, 16, 0),
    (5, 2, 2, 6, 4),  # quads that are not whole, not aligned to 16 bytes
    (7, 1, 2, 3, 0),
]
LARGE = (64 * 256, 2, 1, 16, 0)


def check(workspace, evaluations: Evaluations, shape: tuple[int, ...]) -> None:
    rows, halves, outputs, C, shift = shape
    width = outputs * C
    rng = np.random.default_rng(shape)
    guidance = GUIDANCE if halves == 2 else 1.0
    state = workspace.state(chain_length=STEPS, k=STEPS - 1, guidance=guidance)
    prediction, settled = (workspace.empty((halves * rows, width), shift=shift) for _ in range(2))
    kept = {
        "settled": settled,
        "differences": workspace.empty((evaluations.order + 1, rows, width), shift=shift),
        "state": state,
    }
    sizes = {"rows": rows, "halves": halves, "order": evaluations.order, "outputs": outputs, "C": C}
    gap = workspace.empty((rows, C), shift=shift)
    expected = Predictions(evaluations, guidance, C)
    for k in range(STEPS - 1, -1, -1):
        evaluated = evaluations.halves(STEPS, halves)[k]
        drawn = rng.normal(size=(evaluated * rows, width)).astype(np.float32)
        if evaluated:
            unread = np.full(((halves - evaluated) * rows, width), np.nan, np.float32)
            workspace.set(prediction, np.concatenate([drawn, unread]))
            launch = launches.keep_prediction(**kept, **sizes, gap=gap, prediction=prediction, evaluated=evaluated)
        else:
            launch = launches.forecast(**kept, **sizes)
        workspace.run(launch)
        wanted, left = expected.at(k, drawn if evaluated else None, rows)
        assert left == 1
        assert np.array_equal(workspace.get(settled), np.concatenate([wanted] * halves))
        after = workspace.get(state)
        assert (after["k"], after["tickets"]) == (k, 0)
        after["k"] = k - 1 if k else 0  # as the reverse step leaves it
        workspace.set(state, after)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(("interval", "guidance_interval"), [(4, 1), (3, 2), (1, 3)])
def test_a_chain_s_predictions(workspace, shape, order, interval, guidance_interval):
    check(workspace, Evaluations(interval, order, 3, 2, guidance_interval), shape)


def test_large_batches(large_workspace):
    check(large_workspace, Evaluations(8, 1, 3, 2, 2), LARGE)
