"""What all families do with the image and the mask of an edit: checks, cells, the hole, what is pasted."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import InputError, to_uint8, to_values
from himar_kernels.arithmetic.editing import Edit, check_edit, place_on_canvas, touched_cells, widened

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (12, 12, 3), np.uint8)


def mask(*spans: tuple[slice, slice], side: int = 12) -> np.ndarray:
    made = np.zeros((side, side), np.bool_)
    for rows, columns in spans:
        made[rows, columns] = True
    return made


HOLE = mask((slice(2, 5), slice(3, 9)))


def test_a_cell_is_touched_by_a_single_pixel_of_it():
    cells = touched_cells(mask((slice(5, 6), slice(6, 7)))[None], 3)
    assert cells[0].tolist() == [[False, False, False], [False, True, False], [False, False, False]]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 8, 12])
def test_cells_are_touched_where_any_pixel_that_they_cover_is(side):
    masks = GENERATOR.random((4, 12, 12)) < 0.05
    cells = touched_cells(masks, side)
    for row, column in np.ndindex(side, side):
        rows, columns = (slice(int(np.floor(12 * i / side)), int(np.ceil(12 * (i + 1) / side))) for i in (row, column))
        assert np.array_equal(cells[:, row, column], masks[:, rows, columns].any(axis=(1, 2)))


def test_a_ring_is_all_neighbours_and_stays_on_the_grid():
    cells = np.zeros((2, 4, 4), np.bool_)
    cells[0, 0, 0] = cells[1, 2, 1] = True
    assert widened(cells).astype(int).tolist() == [
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]],
    ]


def test_the_hole_is_filled_with_the_mean_colour_of_the_rest():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1], image[1] = (10, 0, 255), (11, 1, 255), (200, 200, 200)
    filled = Edit(image[None], np.array([[[False, False], [True, True]]])).filled()[0]
    assert filled[1].tolist() == [[11, 1, 255], [11, 1, 255]]  # 10.5 and 0.5 are rounded up
    assert np.array_equal(filled[0], image[0])


def test_what_is_in_the_hole_changes_nothing_that_is_read():
    other = IMAGE.copy()
    other[HOLE] = 255 - other[HOLE]
    one, two = (Edit(image[None], HOLE[None]).filled() for image in (IMAGE, other))
    assert np.array_equal(one, two)


def test_pixels_outside_the_mask_are_pasted_as_they_were():
    drawn = np.full((1, 12, 12, 3), 7, np.uint8)
    pasted = Edit(IMAGE[None], HOLE[None]).paste(drawn)[0]
    assert np.array_equal(pasted[~HOLE], IMAGE[~HOLE]) and (pasted[HOLE] == 7).all()


def test_a_feather_blends_over_rings_inside_the_mask_alone():
    image = np.full((9, 9, 3), 100, np.uint8)
    hole = mask((slice(0, 7), slice(1, 9)), side=9)
    drawn = np.full((1, 9, 9, 3), 201, np.uint8)
    pasted = Edit(image[None], hole[None], feather=2).paste(drawn)[0, ..., 0]
    # Rings of 1/3, 2/3 and 3/3 of 101; none at the image's own edges.
    one, two, three = 100 + 34, 100 + 67, 201
    expected = np.array(
        [[100, one, two, *[three] * 6]] * 5 + [[100, one, *[two] * 7], [100, *[one] * 8]] + [[100] * 9] * 2
    )
    assert np.array_equal(pasted, expected)
    plain = Edit(image[None], hole[None]).paste(drawn)
    assert np.array_equal(plain, Edit(image[None], hole[None], feather=0).paste(drawn))


def test_a_wide_feather_ends_where_a_mask_does():
    blended = Edit(IMAGE[None], HOLE[None], feather=12).paste(np.full((1, 12, 12, 3), 255, np.uint8))[0]
    assert np.array_equal(blended[~HOLE], IMAGE[~HOLE])
    parts = np.array([[1] * 6, [1, 2, 2, 2, 2, 1], [1] * 6])[..., None]
    given = IMAGE[2:5, 3:9].astype(int)
    assert np.array_equal(blended[2:5, 3:9], (parts * 255 + (13 - parts) * given + 6) // 13)


@pytest.mark.parametrize("name", ["dilation", "feather"])
@pytest.mark.parametrize("value", [-1, 13, 1.5, True, "2"])
def test_rings_are_whole_numbers_up_to_the_side(name, value):
    with pytest.raises(InputError, match=rf"{name} is {value!r}; it must be a whole number from 0 to 12, the side"):
        check_edit([IMAGE], HOLE, 12, **{name: value})


def test_an_edit_keeps_its_rings_when_it_is_cut():
    whole = check_edit([IMAGE, IMAGE], [HOLE, HOLE.T], 12, dilation=2, feather=np.int64(3))
    part = whole[np.array([1])]
    assert (part.dilation, part.feather, len(part)) == (2, 3, 1) and np.array_equal(part.masks[0], HOLE.T)


def test_where_nothing_is_kept_the_filling_is_grey():
    assert (Edit(IMAGE[None], np.ones((1, 12, 12), np.bool_)).filled() == 128).all()


def test_values_of_pixels_go_back_to_the_same_pixels():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    values = to_values(every)
    assert values.shape == (1, 3, 16, 16) and (values.min(), values.max()) == (-1, 1)
    assert np.array_equal(to_uint8(values), every)


def test_one_mask_serves_all_images_and_a_list_each_its_own():
    both = check_edit([IMAGE, IMAGE], HOLE, 12)
    assert len(both) == 2 and np.array_equal(both.masks, [HOLE, HOLE])
    apart = check_edit(np.stack([IMAGE, IMAGE]), [HOLE, HOLE.T], 12, [1, 2])
    assert np.array_equal(apart[1:].masks, [HOLE.T])
    hashes = apart.hashes()
    assert hashes[0][0] == hashes[1][0] and hashes[0][1] != hashes[1][1] and len(hashes[0][0]) == 64


@pytest.mark.parametrize(
    ("images", "masks", "labels", "sentence"),
    [
        ([], [], None, "images is empty; give at least one image and its mask"),
        (np.zeros((0, 12, 12, 3), np.uint8), HOLE, None, "images is empty; give at least one image and its mask"),
        ("cat.png", HOLE, None, "images is 'cat.png'; give a list of arrays"),
        (["cat.png"], HOLE, None, "image 0 is of type str; give a NumPy array"),
        ([IMAGE.astype(np.float32)], HOLE, None, "image 0 has type float32 and shape (12, 12, 3); give RGB pixels"),
        ([IMAGE[..., 0]], HOLE, None, "image 0 has type uint8 and shape (12, 12); give RGB pixels"),
        ([IMAGE, IMAGE[:8]], HOLE, None, "image 1 has 12 × 8 pixels, but the model's images have 12 × 12"),
        ([IMAGE], [HOLE[:, :8]], None, "mask 0 has 8 × 12 pixels, but its image has 12 × 12"),
        ([IMAGE], [255 * HOLE.astype(np.uint8)], None, "mask 0 has type uint8 and shape (12, 12); give booleans"),
        ([IMAGE], [~mask(side=12)], None, "mask 0 covers the whole image, so nothing is kept; generate an image"),
        ([IMAGE, IMAGE], [HOLE, mask(side=12)], None, "mask 1 is empty, so there is nothing to draw"),
        ([IMAGE, IMAGE], [HOLE], None, "2 images and 1 masks are given; give one mask per image, or one"),
        ([IMAGE, IMAGE], HOLE, [3], "2 images and 1 labels are given; give one label per image"),
    ],
)
def test_what_does_not_fit_is_refused(images, masks, labels, sentence):
    with pytest.raises(InputError) as caught:
        check_edit(images, masks, 12, labels)
    assert sentence in str(caught.value)


def test_a_smaller_image_lies_on_a_canvas_whose_border_is_the_mask():
    canvas, border = place_on_canvas(IMAGE[:4, :6], 12, 5, 8)
    assert np.array_equal(canvas[8:, 5:11], IMAGE[:4, :6]) and not canvas[:8].any()
    assert (~border).sum() == 24 and not border[8:, 5:11].any()


@pytest.mark.parametrize(("left", "top"), [(7, 0), (0, 9), (-1, 0)])
def test_an_image_that_is_not_wholly_on_the_canvas(left, top):
    with pytest.raises(InputError, match=f"6 × 4 pixels placed at {left},{top} is not wholly on the canvas of 12 × 12"):
        place_on_canvas(IMAGE[:4, :6], 12, left, top)
