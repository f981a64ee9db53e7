"""Pixels: every runtime must round the same way, or the same seed gives files that differ."""

from __future__ import annotations

import numpy as np

from himar_kernels import to_sheet, to_uint8


def test_range_layout_and_clipping() -> None:
    images = np.zeros((2, 3, 4, 5), np.float32)
    images[0, 0, 1, 2] = 1.0
    images[0, 1, 1, 2] = 7.0
    images[0, 2, 1, 2] = -1.5
    pixels = to_uint8(images)
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels[0, 1, 2].tolist() == [255, 255, 0]


def test_every_pixel_value_survives_the_round_trip_and_halves_go_to_even() -> None:
    values = np.arange(256, dtype=np.uint8)
    images = np.broadcast_to((values / 127.5 - 1).astype(np.float32), (1, 3, 1, 256))
    assert np.array_equal(to_uint8(images)[0, 0, :, 0], values)
    assert to_uint8(np.zeros((1, 3, 1, 1), np.float32)).ravel().tolist() == [128] * 3  # 127.5 -> 128


def test_half_precision_is_rounded_in_single() -> None:
    images = RANDOM_HALF.reshape(1, 3, 2, 50)
    assert np.array_equal(to_uint8(images), to_uint8(images.astype(np.float32)))


RANDOM_HALF = np.random.default_rng(0).uniform(-1.2, 1.2, 300).astype(np.float16)


def test_a_sheet_keeps_every_image_in_its_place():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 4, 6, 3), np.uint8)
    sheet = to_sheet(images, columns=3, gap=1)
    assert sheet.shape == (9, 20, 3)
    assert (sheet[5:, 7:13] == 4).all()
    assert (sheet[5:, 14:] == 255).all()
    assert (to_sheet(images[:1], columns=10) == images[0]).all()
