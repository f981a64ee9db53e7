"""Filters and draws on a device decide as the NumPy definitions do: the same codes, with the same confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from himar_kernels.families.hmar import (
    ImageDraws,
    PhiloxDraws,
    draw_codes,
    guided,
    launches,
    least_confident,
    load_recording,
    recorded_cases,
    recorded_request,
    surviving,
)
from tests.closeness import assert_rounded

GOLDEN = Path(__file__).parents[2] / "golden"
UNTOUCHED = -7


def drawn(
    workspace,
    logits,
    uniforms=None,
    top_k=0,
    top_p=1.0,
    weight=None,
    draws=None,
    images=None,
    scale=0,
    step=0,
    masked=None,
):
    """Codes, confidence and fault word of logits (H·B, T, V); two halves where a weight is given."""
    halves = 1 if weight is None else 2
    batch, T, V = len(logits) // halves, *logits.shape[1:]
    images = np.arange(batch) if images is None else images
    codes = workspace.put(np.full((batch, T), UNTOUCHED, np.int64))
    confidence = workspace.put(np.full((batch, T), UNTOUCHED, np.float32))
    fault = workspace.fault()
    workspace.run(
        launches.draw_codes(
            codes=codes,
            confidence=confidence,
            logits=workspace.put(logits.astype(np.float32)),
            uniforms=None if uniforms is None else workspace.put(np.asarray(uniforms, np.float32)),
            masked=None if masked is None else workspace.put(masked.astype(np.uint8)),
            origins=workspace.origins(draws or PhiloxDraws(0), images),
            fault=fault,
            weight=weight or 0.0,
            top_p=top_p,
            top_k=top_k,
            scale=scale,
            step=step,
            component=3,
            batch=batch,
            halves=halves,
            T=T,
            V=V,
        )
    )
    return workspace.get(codes), workspace.get(confidence), int(workspace.get(fault))


def assert_draws_as_numpy(workspace, logits, uniforms, top_k, top_p):
    codes, confidence, fault = drawn(workspace, logits, uniforms, top_k, top_p)
    expected, probability = draw_codes(logits, surviving(logits, top_k, top_p), uniforms)
    assert np.array_equal(codes, expected)
    assert_rounded(confidence, probability, 1)
    assert fault == 0


FILTERS = [(0, 1.0), (5, 1.0), (0, 0.9), (7, 0.6), (1, 1.0), (0, 1e-9), (37, 0.999)]


@pytest.mark.parametrize(("top_k", "top_p"), FILTERS)
@pytest.mark.parametrize("ties", [False, True])
def test_codes_and_confidence_are_numpy_s(workspace, top_k, top_p, ties):
    rng = np.random.default_rng(top_k)
    logits = rng.normal(0, 3, (2, 6, 37)).astype(np.float32)
    logits = np.rint(logits) if ties else logits  # also 0 and -0
    assert_draws_as_numpy(workspace, logits, rng.random((2, 6), np.float32), top_k, top_p)


@pytest.mark.parametrize(("V", "top_k", "top_p"), [
    (4096, 900, 0.96), (4096, 0, 0.5), (4095, 4095, 0.99), (4093, 1, 1.0), (2049, 700, 0.9), (1000, 650, 0.99),
    (513, 0, 1.0), (511, 30, 0.8), (3, 2, 0.9),
])  # fmt: skip
def test_vocabularies_of_released_sizes(large_workspace, V, top_k, top_p):
    rng = np.random.default_rng(V)
    logits = rng.normal(0, 4, (2, 5, V)).astype(np.float32)
    assert_draws_as_numpy(large_workspace, logits, rng.random((2, 5), np.float32), top_k, top_p)


def test_logits_far_apart_and_alone(workspace):
    logits = np.float32([[[-2000, 0, -740, -3e38], [5, 5, 5, 5]]])
    for uniform in (0.0, 0.5, 1 - 2**-24):
        assert_draws_as_numpy(workspace, logits, np.full((1, 2), uniform, np.float32), 0, 1.0)
    assert_draws_as_numpy(workspace, np.zeros((1, 3, 1), np.float32), np.zeros((1, 3), np.float32), 1, 0.5)


def test_where_no_sum_exceeds_the_draw_the_last_survivor_is_drawn(workspace):
    logits = np.float32([[[3, 3, 3, 0, 0]]])
    codes, confidence, _ = drawn(workspace, logits, np.ones((1, 1)), top_k=3)
    assert codes.tolist() == [[2]]
    assert_rounded(confidence, np.float32([[1 / 3]]), 1)


@pytest.mark.parametrize(("seed", "scale", "step"), [(0, 0, 0), (2**64 - 1, 9, 3), (2**32 + 5, 65535, 65535)])
def test_uniforms_come_from_seed_scale_step_image_and_cell(workspace, seed, scale, step):
    logits = np.zeros((3, 4, 64), np.float32)
    images = np.array([0, 7, 2**32 - 1])
    codes, _, _ = drawn(workspace, logits, draws=PhiloxDraws(seed), images=images, scale=scale, step=step)
    expected = np.floor(PhiloxDraws(seed).uniforms(scale, step, images, 4) * np.float32(64))
    assert np.array_equal(codes, expected)


def test_each_image_of_a_batch_has_a_seed_and_an_index_of_its_own(workspace):
    draws, images = ImageDraws([2**64 - 1, 5, 5, 0], [0, 7, 2**32 - 1, 7]), np.arange(4)
    codes, _, _ = drawn(workspace, np.zeros((4, 4, 64), np.float32), draws=draws, images=images, scale=3, step=2)
    assert np.array_equal(codes, np.floor(draws.uniforms(3, 2, images, 4) * np.float32(64)))


@pytest.mark.parametrize("weight", [0.0, 1.5, 1 + 1.9 * 3 / 9])
def test_guidance_rounds_as_numpy_does(workspace, weight):
    rng = np.random.default_rng(4)
    halves = rng.normal(0, 3, (2, 2, 4, 21)).astype(np.float32)
    uniforms = rng.random((2, 4), np.float32)
    codes, confidence, _ = drawn(workspace, halves.reshape(4, 4, 21), uniforms, 9, 0.9, weight)
    logits = guided(*halves, weight)
    expected, probability = draw_codes(logits, surviving(logits, 9, 0.9), uniforms)
    assert np.array_equal(codes, expected)
    assert_rounded(confidence, probability, 1)


def test_cells_that_are_not_masked_keep_their_codes(workspace):
    logits = np.random.default_rng(5).normal(size=(2, 5, 11)).astype(np.float32)
    masked = np.array([[True, False, True, False, False], [False, True, True, True, False]])
    codes, confidence, _ = drawn(workspace, logits, draws=PhiloxDraws(3), masked=masked)
    everywhere, probability, _ = drawn(workspace, logits, draws=PhiloxDraws(3))
    assert np.array_equal(codes, np.where(masked, everywhere, UNTOUCHED))
    assert np.array_equal(confidence, np.where(masked, probability, UNTOUCHED))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_a_fault(workspace, value):
    logits = np.zeros((1, 3, 9), np.float32)
    logits[0, 1, 4] = value
    codes, _, fault = drawn(workspace, logits, np.full((1, 3), 0.5), 3, 0.9, scale=6)
    assert fault == 3 | 6 << 8
    assert ((codes >= 0) & (codes < 9)).all()


@pytest.mark.parametrize("name", ["hmar-narrow-144", "hmar-narrow-256"])
def test_every_recorded_draw_and_mask(large_workspace, name):
    arrays = load_recording(GOLDEN / f"{name}.npz")
    compared = 0
    for case in recorded_cases(arrays):
        request = recorded_request(arrays, case)
        for place, recorded in enumerate(request.forwards):
            if recorded.drawn is None:
                continue
            images = len(recorded.logits)
            uniforms = arrays[f"{case}/forward{place:02d}/uniform"][:images]
            sampling = request.sampling
            codes, _, _ = drawn(large_workspace, recorded.logits, uniforms, sampling.top_k, sampling.top_p)
            assert np.array_equal(codes, recorded.drawn[:images])
            compared += 1
    assert compared > 0


def chosen(workspace, confidence, count, among=None):
    batch, T = confidence.shape
    cells = workspace.empty((batch, T), np.uint8)
    workspace.run(
        launches.least_confident(
            chosen=cells,
            confidence=workspace.put(confidence),
            among=None if among is None else workspace.put(among.astype(np.uint8)),
            count=count,
            batch=batch,
            T=T,
        )
    )
    return workspace.get(cells)


def test_a_finest_scale_of_1024_px(large_workspace):
    """4,096 cells, drawn from few codes and from many equal confidences."""
    rng = np.random.default_rng(6)
    logits = rng.integers(0, 3, (1, 4096, 2)).astype(np.float32)
    codes, confidence, _ = drawn(large_workspace, logits, draws=PhiloxDraws(9))
    uniforms = PhiloxDraws(9).uniforms(0, 0, np.arange(1), 4096)
    expected, probability = draw_codes(logits, surviving(logits, 0, 1.0), uniforms)
    assert np.array_equal(codes, expected)
    assert_rounded(confidence, probability, 1)
    found = chosen(large_workspace, confidence, 3000)
    assert np.array_equal(found, least_confident(confidence, 3000).astype(np.uint8))


@pytest.mark.parametrize(("batch", "T", "count"), [(1, 1, 1), (3, 9, 5), (3, 9, 0), (2, 64, 64), (2, 100, 63)])
@pytest.mark.parametrize("some", [False, True])
def test_the_least_confident_cells_are_numpy_s(workspace, batch, T, count, some):
    rng = np.random.default_rng(T)
    confidence = np.minimum(rng.integers(1, 12, (batch, T)) / 8, 1).astype(np.float32)  # many are equal
    among = rng.random((batch, T)) < 0.6 if some else None
    expected = least_confident(confidence, count, among)
    assert np.array_equal(chosen(workspace, confidence, count, among), expected.astype(np.uint8))


@pytest.mark.parametrize("some", [False, True])
def test_every_image_has_its_own_count(workspace, some):
    rng = np.random.default_rng(8)
    confidence = (rng.integers(1, 6, (5, 36)) / 8).astype(np.float32)
    among = rng.random((5, 36)) < 0.5 if some else None
    counts = np.array([0, 1, 7, 36, 12])  # none, and more than there are to choose from
    cells = workspace.empty((5, 36), np.uint8)
    workspace.run(
        launches.least_confident_of_each(
            chosen=cells,
            confidence=workspace.put(confidence),
            among=None if among is None else workspace.put(among.astype(np.uint8)),
            counts=workspace.put(counts.astype(np.uint32)),
            batch=5,
            T=36,
        )
    )
    assert np.array_equal(workspace.get(cells), least_confident(confidence, counts, among).astype(np.uint8))
