"""The graphs gather by these indices: one wrong index mixes images or positions without any error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from himar_kernels import InputError
from himar_kernels.families.hi_mar import (
    SamplingConfig,
    index_lists,
    known_positions,
    load_recording,
    plan_phase,
    revealed_positions,
)

GOLDEN = Path(__file__).parents[1] / "golden"


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(0, 12),
    st.integers(0, 6),
    st.integers(),
)
def test_gathering_by_the_lists_rebuilds_the_sequence(
    rows: int, context: int, embedded: int, masked: int, extra: int, seed: int
) -> None:
    """Play the graph: embed, gather visible, 'encode', gather sources; each decoder row must hold its own."""
    random = np.random.default_rng(abs(seed))
    masked = min(masked, embedded)
    order = np.stack([random.permutation(embedded) for _ in range(rows)])
    known = known_positions(order, masked)
    positions = embedded + extra
    lists = index_lists(known, context, positions)

    own = np.arange(rows * (context + embedded))  # row r, slot j is r·(K+P) + j
    encoder_output = own[lists.visible]
    mask_tokens = -1 - np.arange(positions)
    decoder_input = np.concatenate([encoder_output.ravel(), mask_tokens])[lists.sources]

    expected = np.empty((rows, context + positions), np.int64)
    expected[:, :context] = own.reshape(rows, -1)[:, :context]
    expected[:, context:] = mask_tokens
    for row in range(rows):
        for position in np.flatnonzero(known[row]):
            expected[row, context + position] = own.reshape(rows, -1)[row, context + position]
    assert np.array_equal(decoder_input, expected)
    assert np.all(np.diff(lists.visible, axis=1) > 0)
    assert lists.visible.dtype == lists.sources.dtype == np.int64


@pytest.mark.parametrize("name", ["himar-narrow-128", "himar-narrow-256"])
def test_recorded_masks_are_the_first_entries_of_the_recorded_orders(name: str) -> None:
    arrays = load_recording(GOLDEN / f"{name}.npz")
    low_positions = arrays["t/pivots"].shape[1]
    orders = arrays["t/orders"]
    for phase, part, first in (
        ("phase1", slice(None, low_positions), 0),
        ("phase2", slice(low_positions, None), 1),
    ):
        mask = arrays[f"{phase}/mask"][:, part] == 1
        known = known_positions(orders[:, part] - first * low_positions, int(mask[0].sum()))
        assert np.array_equal(known, ~mask)


def test_steps_reveal_every_position_once_and_ascending() -> None:
    order = np.stack([np.random.default_rng(image).permutation(64) for image in range(3)])
    seen = np.zeros((3, 64), int)
    for step in plan_phase(SamplingConfig(high_steps=5), "high", 64):
        positions = revealed_positions(order, step)
        assert positions.shape == (3, step.revealed)
        assert np.all(np.diff(positions, axis=1) > 0)
        before = known_positions(order, step.masked)
        assert not np.take_along_axis(before, positions, axis=1).any()
        np.add.at(seen, (np.arange(3)[:, None], positions), 1)
    assert np.all(seen == 1)


def test_rows_that_know_different_numbers_are_refused() -> None:
    known = np.array([[True, False], [True, True]])
    with pytest.raises(InputError, match="rows know 1 to 2 positions"):
        index_lists(known, 4, 2)


def test_more_embedded_than_decoded_positions_are_refused() -> None:
    with pytest.raises(InputError, match="2 positions are embedded, but the decoder predicts only 1"):
        index_lists(np.ones((1, 2), bool), 4, 1)
