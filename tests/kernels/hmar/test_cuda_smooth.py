"""Mixed codes of a smooth preview, and masks as the trunk takes them, are NumPy's on a device."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels.families.hmar import ImageDraws, PhiloxDraws, guided, launches, smooth_weights, surviving
from himar_kernels.families.hmar.code_draws import preview_factors
from tests.closeness import RUN, assert_near


def mixed(
    workspace,
    logits,
    embedding,
    *,
    gumbel=None,
    top_k=0,
    top_p=1.0,
    ratio=0.5,
    weight=None,
    draws=None,
    images=None,
    scale=0,
):
    """Vectors (B, T, C) of logits (H·B, T, V), and the fault word; two halves where a weight is given."""
    halves = 1 if weight is None else 2
    batch, T, V = len(logits) // halves, *logits.shape[1:]
    images = np.arange(batch) if images is None else images
    lift, temperature = preview_factors(ratio)
    words, fault = workspace.empty((batch, T, embedding.shape[1]), np.float32), workspace.fault()
    workspace.run(
        launches.mix_codes(
            words=words,
            logits=workspace.put(logits.astype(np.float32)),
            gumbel=None if gumbel is None else workspace.put(gumbel),
            embedding=workspace.put(embedding),
            origins=workspace.origins(draws or PhiloxDraws(0), images),
            fault=fault,
            weight=weight or 0.0,
            top_p=top_p,
            lift=lift,
            temperature=temperature,
            top_k=top_k,
            scale=scale,
            component=3,
            batch=batch,
            halves=halves,
            T=T,
            V=V,
            C=embedding.shape[1],
        )
    )
    return workspace.get(words), int(workspace.get(fault))


@pytest.mark.parametrize(("top_k", "top_p", "ratio"), [(0, 1.0, 0.0), (5, 1.0, 0.4), (9, 0.7, 1.0), (1, 1.0, 1.0)])
def test_vectors_are_mixed_as_numpy_does(workspace, top_k, top_p, ratio):
    rng = np.random.default_rng(top_k)
    halves = rng.normal(0, 3, (2, 2, 4, 21)).astype(np.float32)
    embedding = rng.normal(size=(21, 5)).astype(np.float32)
    logits = guided(*halves, 1.7)
    gumbel = PhiloxDraws(5).gumbel(3, np.array([0, 1]), 4, 21)
    keep = surviving(logits, top_k, top_p)
    expected = smooth_weights(logits, keep, gumbel, ratio) @ embedding
    settings = {"top_k": top_k, "top_p": top_p, "ratio": ratio, "weight": 1.7}
    given, fault = mixed(workspace, halves.reshape(4, 4, 21), embedding, gumbel=gumbel, **settings)
    assert fault == 0
    assert_near(given, expected, RUN)
    drawn, _ = mixed(workspace, halves.reshape(4, 4, 21), embedding, draws=PhiloxDraws(5), scale=3, **settings)
    assert_near(drawn, expected, RUN)


@pytest.mark.parametrize(
    ("draws", "images"),
    [(PhiloxDraws(2**64 - 1), [7, 2**32 - 1]), (ImageDraws([3, 2**64 - 1, 9], [7, 7, 2**32 - 1]), [2, 1])],
)
def test_noise_comes_from_seed_scale_image_and_cell(workspace, draws, images):
    images = np.array(images)
    embedding = np.eye(11, dtype=np.float32)
    logits = np.zeros((2, 3, 11), np.float32)
    gumbel = draws.gumbel(9, images, 3, 11)
    expected = smooth_weights(logits, np.ones(logits.shape, np.bool_), gumbel, 0.5)
    found, _ = mixed(workspace, logits, embedding, draws=draws, images=images, scale=9)
    assert_near(found, expected, RUN)


def test_a_logit_that_is_not_finite_is_a_fault(workspace):
    logits = np.zeros((1, 3, 9), np.float32)
    logits[0, 1, 4] = np.nan
    _, fault = mixed(workspace, logits, np.ones((9, 2), np.float32), scale=6)
    assert fault == 3 | 6 << 8


@pytest.mark.parametrize("halves", [1, 2])
def test_a_mask_is_shown_to_every_half(workspace, halves):
    masked = np.array([[1, 0, 1, 0], [0, 0, 1, 1]], np.uint8)
    shown = workspace.empty((halves * 2, 4), np.float32)
    workspace.run(launches.show_masked(shown=shown, masked=workspace.put(masked), batch=2, halves=halves, T=4))
    assert np.array_equal(workspace.get(shown), np.concatenate([masked] * halves).astype(np.float32))
