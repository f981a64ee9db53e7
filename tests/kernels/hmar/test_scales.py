"""Scales and the maps between them: recorded indices, exact ties, and what each map is defined to be."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from himar_kernels import ConfigError
from himar_kernels.families.hmar import Scales, area_map, bicubic_map
from tests.closeness import assert_near

GOLDEN = Path(__file__).parents[2] / "golden"
SCHEDULES = json.loads((GOLDEN / "hmar-schedules.json").read_text())
PAIRS = [(1, 16), (3, 16), (5, 16), (13, 16), (16, 16), (6, 9), (9, 9), (27, 64), (1, 1)]


@pytest.mark.parametrize("size", ["256", "512", "1024"])
def test_the_convolution_of_every_released_scale(size: str) -> None:
    scales = Scales(SCHEDULES[size]["patch_nums"])
    assert [scales.convolution(scale) for scale in range(len(scales))] == SCHEDULES[size]["phi"]


@pytest.mark.parametrize("count", range(2, 40))
def test_the_convolution_is_the_nearest_and_ties_go_up(count: int) -> None:
    places = [Fraction(1, 12), Fraction(13, 36), Fraction(23, 36), Fraction(11, 12)]
    scales = Scales(range(1, count + 1))
    for scale in range(count):
        ratio = Fraction(scale, count - 1)
        nearest = min(range(4), key=lambda k: (abs(places[k] - ratio), -k))
        assert scales.convolution(scale) == nearest


def test_counts_follow_from_the_sides() -> None:
    scales = Scales([1, 2, 3, 6, 9])
    assert (len(scales), scales.side, scales.tokens) == (5, 9, 131)
    assert scales.cells == (1, 4, 9, 36, 81)
    assert scales.span(3) == slice(14, 50)
    assert scales.of_cells().tolist() == [0] + [1] * 4 + [2] * 9 + [3] * 36 + [4] * 81
    assert scales == Scales((1, 2, 3, 6, 9)) and scales != Scales([1, 9])


@pytest.mark.parametrize(("side", "whole"), PAIRS)
def test_area_averages_windows_that_may_overlap(side: int, whole: int) -> None:
    x = torch.randn(1, 2, whole, whole, dtype=torch.float64)
    matrix = torch.tensor(area_map(side, whole), dtype=torch.float64)
    assert_near(matrix @ x @ matrix.T, F.adaptive_avg_pool2d(x, side), 1e-6)


@pytest.mark.parametrize(("side", "whole"), PAIRS)
def test_bicubic_is_the_usual_one_without_antialias(side: int, whole: int) -> None:
    x = torch.randn(1, 2, side, side, dtype=torch.float64)
    matrix = torch.tensor(bicubic_map(side, whole), dtype=torch.float64)
    assert_near(matrix @ x @ matrix.T, F.interpolate(x, size=(whole, whole), mode="bicubic"), 1e-6)


def test_both_maps_are_the_identity_at_the_finest_scale() -> None:
    scales = Scales([1, 2, 3, 6, 9])
    assert np.array_equal(scales.down(4), np.eye(9, dtype=np.float32))
    assert np.array_equal(scales.up(4), np.eye(9, dtype=np.float32))
    with pytest.raises(ValueError, match="read-only"):
        scales.up(4)[0, 0] = 2


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ([4], r"patch_nums is \[4\]; a model has at least two scales"),
        ([], r"patch_nums is \[\]; a model has at least two scales"),
        ([1, 3, 2], r"patch_nums is \[1, 3, 2\]; sides run from coarse to fine, so none may shrink"),
        ([0, 2], "every side is a whole number from 1 to 256"),
        ([1, 257], "every side is a whole number from 1 to 256"),
        ([1, 2.0], "every side is a whole number from 1 to 256"),
        ([1, True], "every side is a whole number from 1 to 256"),
        ("1 2 3", "give a list of sides"),
        (16, "patch_nums is 16; give a list of sides"),
    ],
)
def test_sides_that_are_no_scales(sides: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scales(sides)  # type: ignore[arg-type]
