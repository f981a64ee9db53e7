"""The NumPy definitions of what lies between codes and latent, against the released tokenizer's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from himar_kernels.families.hmar import (
    Codebook,
    Scales,
    contribution,
    decode_codes,
    encode_latent,
    masked_words,
    nearest_codes,
    scale_input,
    spread,
)
from tests.closeness import COMPONENT, assert_near

GOLDEN = Path(__file__).parents[2] / "golden"
SCALES = {"144": Scales([1, 2, 3, 6, 9]), "256": Scales([1, 2, 3, 4, 5, 6, 8, 10, 13, 16])}


@pytest.fixture(scope="module")
def book() -> Codebook:
    state = torch.load(GOLDEN / "hmar-vae-narrow.pth", weights_only=True)
    parts = [
        np.stack([state[f"quantize.quant_resi.qresi_ls.{k}.{kind}"].numpy() for k in range(4)])
        for kind in ("weight", "bias")
    ]
    return Codebook(state["quantize.embedding.weight"].numpy(), *parts)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "hmar-vae-narrow.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize("size", SCALES)
def test_codes_latents_and_inputs_of_a_recorded_image(book, recorded, size) -> None:
    scales, codes = SCALES[size], recorded[f"{size}/codes"]
    assert np.array_equal(encode_latent(book, scales, recorded[f"{size}/f"]), codes)
    latents = decode_codes(book, scales, codes)
    for scale, (ours, theirs) in enumerate(zip(latents, recorded[f"{size}/f_hat"], strict=True)):
        assert_near(ours, theirs, COMPONENT, f"latent after scale {scale}")
    inputs = [scale_input(scales, scale, latents[scale - 1]) for scale in range(1, len(scales))]
    assert_near(np.concatenate(inputs, axis=1), recorded[f"{size}/ns_input"], COMPONENT)


@pytest.mark.parametrize("name", ["hmar-narrow-144", "hmar-narrow-256"])
def test_inputs_of_the_masked_network(book, name) -> None:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        codes, expected = archive["tf/codes"], archive["tf/mask_input"]
    scales = SCALES[name[-3:]]
    parts = [contribution(book, scales, scale, codes[:, scales.span(scale)]) for scale in range(1, len(scales))]
    own = [scale_input(scales, scale, part) for scale, part in enumerate(parts, 1)]
    assert_near(np.concatenate(own, axis=1), expected, COMPONENT)


def test_masked_cells_keep_the_input_of_the_scales_before() -> None:
    ahead, own = np.float32([[[1, 2], [3, 4]]]), np.float32([[[10, 20], [30, 40]]])
    words = masked_words(ahead, own, np.array([[True, False]]))
    assert words.tolist() == [[[1, 2], [33, 44]]]


def test_a_contribution_is_the_spread_of_its_codes_vectors(book) -> None:
    codes = np.array([[3, 7, 7, 100]])
    expected = contribution(book, SCALES["144"], 1, codes)
    assert np.array_equal(spread(book, SCALES["144"], 1, book.embedding[codes]), expected)


@pytest.mark.parametrize("size", SCALES)
def test_an_image_is_the_same_bit_for_bit_in_any_batch(book, size) -> None:
    scales, random = SCALES[size], np.random.default_rng(0)
    codes = random.integers(len(book.embedding), size=(5, scales.tokens))
    together = decode_codes(book, scales, codes)
    for batch in (1, 2, 3, 4):
        np.testing.assert_array_equal(decode_codes(book, scales, codes[:batch]), together[:, :batch])
    for scale in range(len(scales)):
        part = scales.span(scale)
        for batch in (1, 2, 3):
            grid = contribution(book, scales, scale, codes[:, part])
            np.testing.assert_array_equal(contribution(book, scales, scale, codes[:batch, part]), grid[:batch])
            np.testing.assert_array_equal(
                scale_input(scales, scale, grid[:batch]), scale_input(scales, scale, grid)[:batch]
            )


def test_of_two_codes_equally_near_the_lower_is_taken() -> None:
    table = np.float32([[5, 5], [1, 0], [0, 1], [1, 0]])
    words = np.float32([[0.5, 0.5], [1, 0], [9, 9]])
    assert nearest_codes(table, words).tolist() == [1, 1, 0]
