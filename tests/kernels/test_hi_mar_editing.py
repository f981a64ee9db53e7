"""What an edit of Hi-MAR draws, in which order and in how many steps."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import InputError, PhiloxDraws
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.families.hi_mar import (
    SamplingConfig,
    drawn_counts,
    drawn_positions,
    edit_order,
    edit_plan,
    edit_sampling,
    guide_rows,
    known_positions,
    plan,
    plan_phase,
    revealed_positions,
)
from himar_kernels.families.hi_mar.editing import require_no_guidance
from himar_kernels.families.hi_mar.phases import ModelInfo

SIZES = ModelInfo(
    width=8, classes=3, buffer=2, cond_scale=2, img_size=16, vae_stride=4, vae_scale=1.0, channels=4
)  # fmt: skip
SINGLE = ModelInfo(
    width=8, classes=3, buffer=2, cond_scale=0, img_size=16, vae_stride=4, vae_scale=1.0, channels=4, pivots="none"
)  # fmt: skip


def edit(*spans: tuple[slice, slice], dilation: int = 0) -> Edit:
    masks = np.zeros((len(spans), 16, 16), np.bool_)
    for mask, span in zip(masks, spans, strict=True):
        mask[span] = True
    return Edit(np.zeros((len(spans), 16, 16, 3), np.uint8), masks, dilation)


PIXEL, HALF, ALL = (slice(5, 6), slice(9, 10)), (slice(0, 16), slice(8, 16)), (slice(0, 16), slice(0, 16))


def test_a_position_is_drawn_if_any_pixel_of_its_cell_is_in_the_mask() -> None:
    drawn = drawn_positions(edit(PIXEL, HALF), SIZES)
    assert drawn["low"].astype(int).tolist() == [[0, 1, 0, 0], [0, 1, 0, 1]]
    assert np.flatnonzero(drawn["high"][0]).tolist() == [6]
    assert np.flatnonzero(drawn["high"][1]).tolist() == [2, 3, 6, 7, 10, 11, 14, 15]
    assert drawn_counts(edit(PIXEL, HALF), SIZES).tolist() == [[1, 1], [2, 8]]


def test_dilation_draws_rings_of_cells_more_at_both_sizes() -> None:
    one = drawn_positions(edit(PIXEL, dilation=1), SIZES)
    assert one["low"].all() and np.flatnonzero(one["high"]).tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert drawn_counts(edit(PIXEL, dilation=2), SIZES).tolist() == [[4, 16]]


def test_a_single_scale_has_high_positions_alone() -> None:
    drawn = drawn_positions(edit(PIXEL, HALF, dilation=1), SINGLE)
    assert drawn["low"].shape == (2, 0) and drawn["high"].sum(axis=1).tolist() == [9, 12]
    steps = edit_plan(SamplingConfig(high_steps=16), SINGLE, np.array([0, 9]))
    assert [step.phase for step in steps] == ["high"] * 9


def test_drawn_positions_come_first_and_orders_of_whole_images_stay() -> None:
    order = PhiloxDraws(3).order("high", 16, np.arange(3))
    drawn = np.random.default_rng(0).random((3, 16)) < 0.4
    drawn[2] = True
    sorted_order = edit_order(order, drawn)
    for image in range(3):
        first = [position for position in order[image] if drawn[image, position]]
        last = [position for position in order[image] if not drawn[image, position]]
        assert sorted_order[image].tolist() == first + last
    assert np.array_equal(sorted_order[2], order[2])


@pytest.mark.parametrize("drawn", [1, 2, 5, 11, 16])
def test_the_steps_reveal_every_drawn_position_once_and_no_other(drawn: int) -> None:
    sampling = SamplingConfig(high_steps=6)
    steps = plan_phase(sampling, "high", 16, drawn)
    assert len(steps) == min(6, drawn)
    mask = np.arange(16)[None] < drawn
    order = edit_order(PhiloxDraws(1).order("high", 16, np.arange(1)), mask)
    assert np.array_equal(known_positions(order, steps[0].masked), ~mask)
    revealed = np.concatenate([revealed_positions(order, step) for step in steps], axis=1)
    assert sorted(revealed[0].tolist()) == list(range(drawn))


def test_an_edit_that_draws_all_has_the_steps_of_a_whole_image() -> None:
    sampling = SamplingConfig(3, 4, 2.0, 3.0, high_diffusion_counts=(9, 8, 7, 6), low_guidances=(1.0, 2.0, 3.0))
    assert edit_plan(sampling, SIZES, drawn_counts(edit(ALL), SIZES)[0]) == plan(sampling, 4, 16)


def test_lists_of_a_value_for_each_step_are_read_from_their_end() -> None:
    counts, scales = (90, 80, 70, 60, 50), (1.0, 1.5, 2.0, 2.5, 3.0)
    sampling = SamplingConfig(high_steps=5, high_diffusion_counts=counts, high_guidances=scales)
    for drawn, entries in ((1, [4]), (2, [1, 4]), (3, [0, 2, 4]), (4, [0, 1, 2, 4]), (16, [0, 1, 2, 3, 4])):
        steps = plan_phase(sampling, "high", 16, drawn)
        assert [step.diffusion_steps for step in steps] == [counts[entry] for entry in entries]
        assert [step.guidance for step in steps] == [scales[entry] for entry in entries]


def test_linear_guidance_grows_with_the_share_of_the_whole_image_that_is_known() -> None:
    sampling = SamplingConfig(high_steps=4, high_guidance=5.0)
    (step,) = plan_phase(sampling, "high", 16, 1)
    assert step.guidance == 1 + 4 * 15 / 16
    half, whole = plan_phase(sampling, "high", 16, 8), plan_phase(sampling, "high", 16)
    assert half[0].guidance == 1 + 4 * (16 - half[0].masked_after) / 16 > whole[0].guidance


def test_steps_are_still_checked_against_the_whole_image() -> None:
    with pytest.raises(InputError, match="high_steps is 17, but phase high has only 16 positions"):
        edit_plan(SamplingConfig(low_steps=4, high_steps=17), SIZES, np.array([1, 1]))


def test_guides_are_rows_of_pivots_and_behind_them_placeholders() -> None:
    drawn = np.array([[True, False, True], [False, False, True]])
    assert guide_rows(drawn).tolist() == [[0, 7, 2], [6, 7, 5]]
    assert guide_rows(np.ones((2, 3), np.bool_)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_nothing_guides_an_edit_that_is_to_show_nothing() -> None:
    sampling = SamplingConfig(low_guidance=2.0, high_guidance=3.0, high_steps=2, high_guidances=(2.0, 3.0))
    assert edit_sampling(sampling, shown=True) == sampling
    none = edit_sampling(sampling, shown=False)
    assert (none.low_guidance, none.high_guidance, none.high_guidances) == (1.0, 1.0, ())
    require_no_guidance(1.0, {"low_guidance": None, "high_guidance": 1.0, "low_steps": 2})
    for guidance, changes, name in (
        (2.5, {}, "guidance is 2.5"),
        (None, {"low_guidance": 3.0}, "low_guidance is 3.0"),
        (None, {"high_guidances": (1.0, 2.0)}, r"high_guidances is \(1.0, 2.0\)"),
    ):
        with pytest.raises(InputError, match=f"{name}, but neither class nor prompt is given"):
            require_no_guidance(guidance, changes)
