"""Filters and draws: the recorded decisions, and our rules for what recordings cannot tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from himar_kernels.families.hmar import (
    Scales,
    draw_codes,
    guided,
    least_confident,
    load_recording,
    plan,
    recorded_cases,
    recorded_request,
    smooth_weights,
    surviving,
)
from tests.closeness import COMPONENT, RUN, assert_near

GOLDEN = Path(__file__).parents[2] / "golden"
SIDES = {"hmar-narrow-144": [1, 2, 3, 6, 9], "hmar-narrow-256": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]}
RECORDED = {name: load_recording(GOLDEN / f"{name}.npz") for name in SIDES}
CASES = [(name, case) for name in SIDES for case in recorded_cases(RECORDED[name])]
NO_FILTER = np.ones(4, np.bool_)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_recorded_decision(name: str, case: str) -> None:
    """Plan, guidance, filter, draw and next mask of each forward, from its recorded logits."""
    arrays = RECORDED[name]
    request = recorded_request(arrays, case)
    forwards = plan(request.sampling, Scales(SIDES[name]))
    assert [(each.scale, each.step) for each in forwards] == [(each.scale, each.step) for each in request.forwards]
    for place, (forward, recorded) in enumerate(zip(forwards, request.forwards, strict=True)):
        assert recorded.logits is not None and recorded.keep is not None
        if recorded.cond is not None and recorded.uncond is not None:
            assert_near(guided(recorded.cond, recorded.uncond, forward.guidance), recorded.logits, 1e-6)
        images = len(recorded.logits)
        keep = surviving(recorded.logits, request.sampling.top_k, request.sampling.top_p)
        assert np.array_equal(keep, recorded.keep[:images])
        if recorded.drawn is None:
            continue
        uniforms = arrays[f"{case}/forward{place:02d}/uniform"][:images]
        codes, confidence = draw_codes(recorded.logits, keep, uniforms)
        assert np.array_equal(codes, recorded.drawn[:images])
        assert recorded.confidence is not None
        assert_near(confidence, recorded.confidence[:images], RUN)
        assert (0 if recorded.masked is None else recorded.masked[0].sum()) == (forward.redrawn if forward.step else 0)
        if forward.remasked:
            masked = least_confident(recorded.confidence, forward.remasked, recorded.masked)
            assert np.array_equal(masked, request.forwards[place + 1].masked)


def test_guidance_of_zero_is_the_conditional_half() -> None:
    cond, uncond = np.float32([1.5, -2, 3]), np.float32([9, 9, 9])
    assert np.array_equal(guided(cond, uncond, 0.0), cond)
    assert np.array_equal(guided(cond, uncond, 1.0), 2 * cond - uncond)


def test_codes_tied_with_the_kth_largest_stay() -> None:
    logits = np.float32([3, 1, 2, 2, 0, 2])
    assert surviving(logits, 2, 1.0).tolist() == [True, False, True, True, False, True]
    assert surviving(logits, 1, 1.0).tolist() == [True, False, False, False, False, False]
    assert surviving(logits, 6, 1.0).all() and surviving(logits, 0, 1.0).all()


def test_of_equal_logits_top_p_removes_the_lower_codes_first() -> None:
    logits = np.zeros(4, np.float32)
    assert surviving(logits, 0, 0.9).tolist() == [True] * 4
    assert surviving(logits, 0, 0.75).tolist() == [False, True, True, True]
    assert surviving(logits, 0, 0.5).tolist() == [False, False, True, True]
    mixed = np.float32([0, 5, 0, 5])
    assert surviving(mixed, 0, 0.49).tolist() == [False, False, False, True]


def test_the_largest_code_always_stays() -> None:
    assert surviving(np.float32([1, 9, 2]), 0, 1e-9).tolist() == [False, True, False]
    assert surviving(np.zeros(3, np.float32), 0, 1e-9).tolist() == [False, False, True]


def test_top_p_counts_what_top_k_left() -> None:
    """Of 0.5, 0.25, 0.25 the first two codes are 2/3 and 1/3; a top_p of 0.6 would otherwise keep two."""
    logits = np.log(np.float32([0.5, 0.25, 0.15, 0.1]))
    assert surviving(logits, 2, 0.6).tolist() == [True, False, False, False]
    assert surviving(logits, 0, 0.6).tolist() == [True, True, False, False]


def test_the_first_code_whose_sum_exceeds_the_draw() -> None:
    logits = np.log(np.float32([0.25, 0.25, 0.5, 1e-9]))
    uniforms = np.array([0.0, 0.2, 0.2500001, 0.75, 0.999])
    codes, confidence = draw_codes(np.tile(logits, (5, 1)), np.tile(NO_FILTER, (5, 1)), uniforms)
    assert codes.tolist() == [0, 0, 1, 2, 2]
    assert_near(confidence, [0.25, 0.25, 0.25, 0.5, 0.5], COMPONENT)


def test_a_sum_equal_to_the_draw_does_not_exceed_it() -> None:
    """Powers of two, so that nothing rounds."""
    codes, _ = draw_codes(np.zeros((4, 4), np.float32), np.tile(NO_FILTER, (4, 1)), np.array([0.0, 0.25, 0.5, 0.75]))
    assert codes.tolist() == [0, 1, 2, 3]


def test_removed_codes_are_never_drawn() -> None:
    keep = np.array([False, True, False, True, False])
    logits = np.float32([9, 0, 9, 0, 9])
    draws = np.array([0.0, 0.49, 0.5, 1 - 2**-24])
    codes, _ = draw_codes(np.tile(logits, (4, 1)), np.tile(keep, (4, 1)), draws)
    assert codes.tolist() == [1, 1, 3, 3]


def test_where_rounding_leaves_the_total_at_the_draw_the_last_survivor_is_drawn() -> None:
    keep = np.array([[True, True, True, False, False]])
    codes, _ = draw_codes(np.zeros((1, 5), np.float32), keep, np.array([1.0]))
    assert codes.tolist() == [2]
    just_below = np.nextafter(1.0, 0.0)
    codes, _ = draw_codes(np.zeros((1, 5), np.float32), keep, np.array([just_below]))
    assert codes.tolist() == [2]


def test_a_single_survivor_has_confidence_one() -> None:
    keep = np.array([[False, True, False]])
    codes, confidence = draw_codes(np.float32([[9, -3, 1]]), keep, np.float32([0.7]))
    assert (codes.tolist(), confidence.tolist()) == ([1], [1.0])


def test_of_equal_confidences_the_lower_cell_is_masked_first() -> None:
    ones = np.ones((2, 5), np.float32)
    assert np.flatnonzero(least_confident(ones, 2)[1]).tolist() == [0, 1]
    mixed = np.float32([[1, 0.5, 1, 0.5, 0.25]])
    assert np.flatnonzero(least_confident(mixed, 2)).tolist() == [1, 4]
    assert np.flatnonzero(least_confident(mixed, 4)).tolist() == [0, 1, 3, 4]


def test_masks_stay_inside_the_cells_to_choose_from() -> None:
    confidence = np.float32([[0.1, 0.2, 0.3, 1.0], [0.1, 0.2, 0.3, 1.0]])
    among = np.array([[False, True, False, True], [True, True, True, False]])
    chosen = least_confident(confidence, np.array([2, 1]), among)
    assert chosen.tolist() == [[False, True, False, True], [True, False, False, False]]
    assert least_confident(confidence, 3, among)[0].tolist() == among[0].tolist()


def test_a_smooth_preview_mixes_survivors_alone() -> None:
    logits, noise = np.float32([0, 1, 2, 9]), np.float32([0.5, 0, -0.5, 0])
    keep = np.array([True, True, True, False])
    for ratio, temperature in ((0.0, 0.27), (0.5, 0.27 * 0.525), (1.0, 0.27 * 0.05)):
        mixed = smooth_weights(logits, keep, noise, ratio)
        expected = np.exp(((1 + ratio) * logits[:3].astype(np.float64) + noise[:3]) / temperature)
        assert_near(mixed[:3], expected / expected.sum(), COMPONENT)
        assert mixed[3] == 0


@pytest.mark.parametrize("seed", range(8))
def test_filters_and_draws_over_survivors_are_those_over_all_codes(seed: int) -> None:
    """Ties everywhere, rows with different numbers of survivors, the ends of [0, 1): every bit is the same."""
    generator = np.random.default_rng(seed)
    logits = np.round(generator.normal(size=(3, 5, 64)) * 1.5).astype(np.float32)
    logits[0, 0, ::2] = np.float32(-0.0)  # equal to the zeros between
    top_k, top_p = int(generator.integers(0, 65)), float(generator.uniform(0.05, 1))
    keep = np.ones(logits.shape, np.bool_)
    if top_k:
        keep = logits >= np.sort(logits, axis=-1)[..., -top_k, None]
    left = np.where(keep, logits, -np.inf)
    order = np.argsort(left, axis=-1, kind="stable")
    each = np.exp(left.astype(np.float64) - left.max(axis=-1, keepdims=True))
    total = np.cumsum(np.take_along_axis(each, order, axis=-1), axis=-1)
    stays = total > (1 - top_p) * total[..., -1:]
    stays[..., -1] = True
    np.put_along_axis(passed := np.empty_like(keep), order, stays, axis=-1)
    assert np.array_equal(surviving(logits, top_k, top_p), keep & passed)

    keep = generator.random(logits.shape) > 0.7
    keep[..., 5] = True
    uniforms = generator.random(logits.shape[:-1]).astype(np.float32)
    uniforms[0, :2] = 0, np.float32(1 - 2**-24)
    each = np.where(keep, np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)), 0.0)
    total = np.cumsum(each, axis=-1)
    whole = total[..., -1]
    beyond = total > (uniforms.astype(np.float64) * whole)[..., None]
    expected = np.where(beyond[..., -1], beyond.argmax(axis=-1), 63 - keep[..., ::-1].argmax(axis=-1))
    codes, confidence = draw_codes(logits, keep, uniforms)
    assert np.array_equal(codes, expected)
    likely = np.take_along_axis(each, expected[..., None], axis=-1)[..., 0] / whole
    assert np.array_equal(confidence, likely.astype(np.float32))
