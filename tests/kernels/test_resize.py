"""Resizing in whole numbers: it is training's filter, and every weight is a whole number of a fixed sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from himar.data.digits import half_size
from himar_kernels import to_values
from himar_kernels.arithmetic.resize import UNIT, cubic_weights, resized_values
from tests.closeness import assert_each_near

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)


def test_half_the_size_is_what_phase_low_was_trained_on() -> None:
    expected = half_size(torch.from_numpy(to_values(PIXELS))).numpy()
    assert_each_near(resized_values(PIXELS, 24), expected, 1e-5)


@pytest.mark.parametrize("side", [5, 16, 36, 47])
def test_any_size_is_torchs_bicubic_filter_without_aliasing(side: int) -> None:
    values = torch.from_numpy(to_values(PIXELS))
    expected = torch.nn.functional.interpolate(values, size=(side, side), mode="bicubic", antialias=True)
    assert_each_near(resized_values(PIXELS, side), expected.clamp(-1, 1), 2e-4)


def test_the_same_size_and_a_plain_colour_stay_as_they_are() -> None:
    assert_each_near(resized_values(PIXELS, 48), to_values(PIXELS), 2e-7)
    plain = np.full((1, 48, 48, 3), 77, np.uint8)
    assert np.array_equal(resized_values(plain, 13), np.broadcast_to(np.float32(77 * 2 / 255 - 1), (1, 3, 13, 13)))


def test_weights_are_whole_numbers_of_one_sum() -> None:
    weights = cubic_weights(16, 8)
    assert (weights.sum(axis=1) == UNIT).all()
    interior = weights[4][weights[4] != 0] * 256 / UNIT
    assert interior.tolist() == [-3, -9, 29, 111, 111, 29, -9, -3]
    # At an edge 111 + 111 + 29 - 9 - 3 = 239 are left of 256.
    assert weights[0, 1:5].tolist() == [n * UNIT // 239 for n in (111, 29, -9, -3)] and not weights[0, 5:].any()
