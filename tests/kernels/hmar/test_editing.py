"""Which cells an edit draws at every scale, and how a schedule's counts follow them."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import InputError
from himar_kernels.families.hmar import SamplingConfig, Scales, edit_cells, edit_sampling, edited_share

SCALES = Scales([1, 2, 3, 6, 8])  # images of 128 × 128 pixels


def cells(mask: np.ndarray, scale: int) -> list[list[int]]:
    side = SCALES.sides[scale]
    return edit_cells(mask[None], SCALES)[0, SCALES.span(scale)].reshape(side, side).astype(int).tolist()


def test_a_pixel_marks_the_cells_that_average_it_and_a_ring_at_fine_scales():
    mask = np.zeros((128, 128), np.bool_)
    mask[20, 20] = True  # latent cell (1, 1)
    assert cells(mask, 0) == [[1]]
    assert cells(mask, 1) == [[1, 0], [0, 0]]
    assert cells(mask, 2) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    fine = np.zeros((6, 6), int)
    fine[:3, :3] = 1  # cells 0 and 1 average latent row 1; 2·6 > 8, so a ring is around them
    assert cells(mask, 3) == fine.tolist()
    finest = np.zeros((8, 8), int)
    finest[:3, :3] = 1
    assert cells(mask, 4) == finest.tolist()


def test_half_an_image_leaves_the_other_half_of_coarse_scales():
    mask = np.zeros((128, 128), np.bool_)
    mask[:, 64:] = True
    assert cells(mask, 1) == [[0, 1], [0, 1]]
    assert cells(mask, 2) == [[0, 1, 1]] * 3
    assert cells(mask, 4) == [[0, 0, 0, 1, 1, 1, 1, 1]] * 8


def test_no_kept_cell_averages_a_latent_cell_that_the_mask_touches():
    generator = np.random.default_rng(1)
    for sides in ([1, 2, 3, 6, 9], [1, 2, 3, 4, 5, 6, 8, 10, 13, 16], [2, 5, 5]):
        scales = Scales(sides)
        masks = np.zeros((6, 16 * scales.side, 16 * scales.side), np.bool_)
        for image in masks:
            image[tuple(generator.integers(0, len(image), 2))] = True
        latent = masks.reshape(6, scales.side, 16, scales.side, 16).any(axis=(2, 4)).astype(np.float32)
        edited = edit_cells(masks, scales)
        assert edited.shape == (6, scales.tokens)
        for scale, side in enumerate(scales.sides):
            seen = (scales.down(scale) @ latent @ scales.down(scale).T).reshape(6, side**2) > 0
            assert not (seen & ~edited[:, scales.span(scale)]).any()


def test_a_schedule_is_followed_in_proportion_to_the_cells_drawn():
    """Of [1, 1, 2, 5] over nine cells 8, 7 and 5 are redrawn in turn."""
    edited = np.array([9, 6, 3, 2, 1])
    assert [edited_share(count, 9, edited).tolist() for count in (8, 7, 5)] == [
        [8, 5, 2, 1, 0],
        [7, 4, 2, 1, 0],
        [5, 3, 1, 1, 0],
    ]


@pytest.mark.parametrize("counts", [(1, 3), (0, 4), (1, 1, 2, 5), (5, 11), (20, 30, 50)])
def test_shares_shrink_and_all_cells_follow_the_schedule_itself(counts):
    total = sum(counts)
    left = [total - sum(counts[: step + 1]) for step in range(len(counts) - 1)]
    shares = np.array([edited_share(count, total, np.arange(total + 1)) for count in left])
    assert shares[:, total].tolist() == left
    assert (np.diff(shares, axis=0) <= 0).all() and (shares <= np.arange(total + 1)).all()
    if counts[0]:
        assert (shares[:, 1:] < np.arange(1, total + 1)).all()  # the prediction fixes a cell


def test_without_a_class_there_is_no_guidance():
    sampling = SamplingConfig(guidance=1.7)
    assert edit_sampling(sampling, labelled=True) == sampling
    assert edit_sampling(sampling, labelled=False) == sampling.with_changes(guidance=0.0)


def test_a_smooth_preview_keeps_no_codes():
    with pytest.raises(InputError, match="smooth is set, but a smooth preview draws no codes; leave smooth out"):
        edit_sampling(SamplingConfig(smooth=True), labelled=True)
