"""Masks as the networks take them, and keys and values of one scale put after those of the coarser ones."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels.families.hmar import launches


@pytest.mark.parametrize(("batch", "T"), [(1, 1), (3, 9), (2, 169)])
@pytest.mark.parametrize("halves", [1, 2])
def test_masked_cells_are_shown_as_ones_in_every_half(workspace, batch, T, halves):
    masked = np.random.default_rng(T).random((batch, T)) < 0.5
    shown = workspace.empty((halves * batch, T))
    address = workspace.put(masked.astype(np.uint8))
    workspace.run(launches.show_masked(shown=shown, masked=address, batch=batch, halves=halves, T=T))
    assert np.array_equal(workspace.get(shown), np.concatenate([masked.astype(np.float32)] * halves))


@pytest.mark.parametrize(("P", "T"), [(0, 1), (1, 4), (14, 9), (5, 36)])
@pytest.mark.parametrize(
    ("C", "shift"), [(8, 0), (8, 4), (7, 0), (1, 0)]
)  # rows that are read 16 bytes at a time or not
def test_a_scale_s_keys_follow_those_of_the_coarser_ones(workspace, P, T, C, shift):
    rng = np.random.default_rng(P)
    rows, blocks = 2, 3
    past, own = (rng.normal(size=(rows, blocks, cells, C)).astype(np.float32) for cells in (P, T))
    joined = workspace.empty((rows, blocks, P + T, C))
    workspace.run(
        launches.join_past(
            joined=joined, past=workspace.put(past, shift), own=workspace.put(own), N=rows * blocks, P=P, T=T, C=C
        )
    )
    assert np.array_equal(workspace.get(joined), np.concatenate([past, own], axis=2))
