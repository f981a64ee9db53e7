"""Contributions, latents and input words on a device are the NumPy definitions', up to the order of their sums."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels.families.hmar import Codebook, Scales, contribution, launches, masked_words, scale_input
from himar_kernels.families.hmar.pyramid import encode_latent, nearest_codes
from tests.closeness import assert_near

BATCH, V, C = 2, 19, 5
SUMS = 1e-6  # float32 sums of some dozens of values in another order
SCALES = [Scales([1, 2, 3, 5]), Scales([1, 2, 2, 4, 6, 8])]


def book_of(rng: np.random.Generator, channels: int = C) -> Codebook:
    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return Codebook(normal(V, channels), normal(4, channels, channels, 3, 3) / 9, normal(4, channels))


def contributed(workspace, book, scales, scale, codes, latent=None):
    """h_s, and the latent with it added."""
    batch, H, channels = len(codes), scales.side, book.embedding.shape[1]
    shape = (batch, channels, H, H)
    grid, own = workspace.empty(shape), workspace.empty(shape)
    to = None if latent is None else workspace.put(latent)
    sizes = {"batch": batch, "H": H, "C": channels}
    workspace.run(
        launches.upsample_codes(
            grid=grid,
            codes=workspace.put(codes),
            embedding=workspace.put(book.embedding),
            up=workspace.put(scales.up(scale)),
            p=scales.sides[scale],
            **sizes,
        ),
        launches.add_contribution(
            own=own,
            latent=to,
            grid=grid,
            weights=workspace.put(book.weights),
            biases=workspace.put(book.biases),
            k=scales.convolution(scale),
            **sizes,
        ),
    )
    return workspace.get(own), None if to is None else workspace.get(to)


@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_a_scale_s_contribution_is_added_to_the_latent(workspace, scales):
    rng = np.random.default_rng(1)
    book = book_of(rng)
    latent = rng.normal(size=(BATCH, C, scales.side, scales.side)).astype(np.float32)
    for scale in range(len(scales)):
        codes = rng.integers(0, V, (BATCH, scales.cells[scale]))
        expected = contribution(book, scales, scale, codes)
        own, after = contributed(workspace, book, scales, scale, codes, latent)
        assert_near(own, expected, SUMS, f"contribution of scale {scale}")
        assert np.array_equal(after, latent + own)
        assert np.array_equal(contributed(workspace, book, scales, scale, codes)[0], own)


def words_of(workspace, scales, scale, latent, own=None, masked=None, halves=1):
    batch, channels, side, _ = latent.shape
    words = workspace.empty((halves * batch, scales.cells[scale], channels))
    workspace.run(
        launches.scale_words(
            words=words,
            latent=workspace.put(latent),
            own=None if own is None else workspace.put(own),
            masked=None if masked is None else workspace.put(masked.astype(np.uint8)),
            down=workspace.put(scales.down(scale)),
            batch=batch,
            halves=halves,
            p=scales.sides[scale],
            side=side,
            C=channels,
        )
    )
    return workspace.get(words)


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("halves", [1, 2])
def test_words_are_the_area_means_and_a_scale_s_own_where_visible(workspace, scales, halves):
    rng = np.random.default_rng(2)
    latent, own = rng.normal(size=(2, BATCH, C, scales.side, scales.side)).astype(np.float32)
    for scale in range(1, len(scales)):
        ahead = scale_input(scales, scale, latent)
        found = words_of(workspace, scales, scale, latent, halves=halves)
        assert_near(found, np.concatenate([ahead] * halves), SUMS, f"next-scale words of scale {scale}")
        masked = rng.random((BATCH, scales.cells[scale])) < 0.5
        expected = masked_words(ahead, scale_input(scales, scale, own), masked)
        found = words_of(workspace, scales, scale, latent, own, masked, halves)
        assert_near(found, np.concatenate([expected] * halves), SUMS, f"masked words of scale {scale}")


def test_the_released_size(large_workspace):
    rng = np.random.default_rng(3)
    scales, book = Scales([1, 2, 3, 4, 5, 6, 8, 10, 13, 16]), book_of(rng, 32)
    codes = rng.integers(0, V, (1, 169))
    own, _ = contributed(large_workspace, book, scales, 8, codes)
    assert_near(own, contribution(book, scales, 8, codes), SUMS)
    assert_near(words_of(large_workspace, scales, 8, own), scale_input(scales, 8, own), SUMS)


def test_a_result_depends_not_on_the_batch(workspace):
    rng = np.random.default_rng(4)
    book, scales = book_of(rng), SCALES[0]
    codes = rng.integers(0, V, (3, 9))
    together, _ = contributed(workspace, book, scales, 2, codes)
    alone = [contributed(workspace, book, scales, 2, codes[b : b + 1])[0] for b in range(3)]
    assert np.array_equal(together, np.concatenate(alone))


def found_nearest(workspace, embedding, words):
    (count, channels), codes = words.shape, workspace.empty((len(words),), np.int64)
    places = {"words": workspace.put(words), "embedding": workspace.put(embedding)}
    workspace.run(launches.nearest_codes(codes=codes, **places, N=count, V=len(embedding), C=channels))
    return workspace.get(codes)


@pytest.mark.parametrize("codes", [1, 19, 700])
def test_the_nearest_code_is_found_and_of_equally_near_ones_the_lower(workspace, codes):
    rng = np.random.default_rng(5)
    embedding = rng.integers(-2, 3, (codes, 3)).astype(np.float32)  # many stand twice, or as near
    words = rng.integers(-6, 7, (40, 3)).astype(np.float32) / 2
    assert np.array_equal(found_nearest(workspace, embedding, words), nearest_codes(embedding, words))


@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_a_latent_is_encoded_scale_by_scale(workspace, scales):
    rng = np.random.default_rng(6)
    book = book_of(rng)
    latent = rng.normal(size=(BATCH, C, scales.side, scales.side)).astype(np.float32)
    expected = encode_latent(book, scales, latent)
    rest, found = workspace.put(latent), []
    for scale in range(len(scales)):
        words = words_of(workspace, scales, scale, workspace.get(rest))
        found.append(found_nearest(workspace, book.embedding, words.reshape(-1, C)).reshape(BATCH, -1))
        own, _ = contributed(workspace, book, scales, scale, found[-1])
        workspace.run(launches.subtract(rest=rest, part=workspace.put(own), count=own.size))
        latent = latent - own
        assert np.array_equal(workspace.get(rest), latent)
    assert np.array_equal(np.concatenate(found, axis=1), expected)
