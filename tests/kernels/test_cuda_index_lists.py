"""Index lists made on a device must be NumPy's: a wrong row number shows a transformer the wrong token."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import Step, index_lists, known_positions, launches, revealed_positions


def check(
    workspace, batch: int, halves: int, context: int, always: int, n: int, beyond: int, masked: int, reveals: int
):
    order = PhiloxDraws(n).order("high", n, np.arange(batch))
    step = Step("high", 0, masked, masked - reveals, reveals, 2.0, 250)
    known = np.concatenate([np.ones((batch, always), bool), known_positions(order, masked)], axis=1)
    positions = always + n + beyond
    expected = index_lists(np.concatenate([known] * halves), context, positions)

    rows = halves * batch
    visible = workspace.empty((rows, context + always + n - masked), np.int64)
    sources = workspace.empty((rows, context + positions), np.int64)
    revealed = workspace.empty((batch, reveals), np.uint32)
    workspace.run(
        launches.index_lists(
            visible=visible,
            sources=sources,
            revealed=revealed,
            ranks=workspace.put(np.argsort(order, axis=1).astype(np.uint32)),
            state=workspace.state(masked=masked, revealed=reveals),
            batch=batch,
            halves=halves,
            context=context,
            always=always,
            n=n,
            positions=positions,
        )
    )
    assert np.array_equal(workspace.get(visible), expected.visible)
    assert np.array_equal(workspace.get(sources), expected.sources)
    assert np.array_equal(workspace.get(revealed), revealed_positions(order, step))


@pytest.mark.parametrize(
    ("batch", "halves", "context", "always", "n", "beyond"),
    [
        (1, 1, 1, 0, 1, 0),
        (1, 2, 4, 0, 64, 256),  # phase low
        (3, 2, 5, 0, 49, 31),
        (3, 1, 64, 64, 256, 0),  # phase high
        (2, 2, 0, 9, 37, 0),
    ],
)
def test_lists_at_every_share_of_masked_positions(workspace, batch, halves, context, always, n, beyond):
    for masked in {1, n // 3 or 1, n}:
        for reveals in {1, masked // 2 or 1, masked}:
            check(workspace, batch, halves, context, always, n, beyond, masked, reveals)


@pytest.mark.parametrize(
    ("batch", "always", "n", "masked", "reveals"),
    [(128, 64, 256, 200, 30), (64, 256, 1024, 1, 1), (1, 0, 5000, 4999, 4000), (1, 7, 65536, 40000, 40000)],
)
def test_large_batches_and_many_positions(large_workspace, batch, always, n, masked, reveals):
    check(large_workspace, batch, 2, 64, always, n, 0, masked, reveals)
