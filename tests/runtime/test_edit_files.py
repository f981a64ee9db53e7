"""Images and masks of an edit from files: what is read as a person sees it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from himar_kernels import InputError
from himar_runtime.edit_files import read_image, read_mask

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_an_opaque_image_of_8_bits_is_read_as_rgb(tmp_path, mode, name):
    if mode == "CMYK" and name.endswith("png"):
        mode = "LA"
    picture = Image.fromarray(PIXELS).convert("L" if mode == "LA" else mode)
    picture.convert(mode).save(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name), np.asarray(picture.convert("RGB")))


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
def test_white_of_a_mask_is_drawn_from_128_on(tmp_path, mode):
    grey = np.zeros((20, 20), np.uint8)
    grey[:5], grey[7, :2] = 255, (127, 128)
    Image.fromarray(grey).convert(mode).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask[:5].all() and not mask[8:].any()
    if mode in ("L", "RGB", "RGBA"):
        assert mask[7].tolist() == [False, True] + [False] * 18


def test_a_photograph_is_no_mask(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m.png is no mask: \d+% of its pixels are neither black nor white; paint"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_files_that_are_no_images(tmp_path, read):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(PIXELS).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:90])
    for name, reason in (
        ("text.png", "it is not an image that can be decoded; give a PNG or JPEG file"),
        ("cut.png", "it is not an image that can be decoded; give a PNG or JPEG file"),
        ("none.png", "No such file or directory; give a PNG or JPEG file"),
        (".", "Is a directory; give a PNG or JPEG file"),
    ):
        with pytest.raises(InputError) as caught:
            read(tmp_path / name)
        assert f"cannot be read: {reason}" in str(caught.value)


def test_transparency_and_more_than_8_bits_are_refused(tmp_path):
    clear = np.dstack([PIXELS, np.full((6, 9), 255, np.uint8)])
    clear[0, 0, 3] = 254
    Image.fromarray(clear).save(tmp_path / "clear.png")
    palette = Image.fromarray(PIXELS).convert("P")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    for name in ("clear.png", "palette.png"):
        for read, what in ((read_image, "image"), (read_mask, "mask")):
            with pytest.raises(InputError, match=f"the {what} .*{name} has transparent pixels, .* save it without"):
                read(tmp_path / name)
    Image.fromarray(np.full((6, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"has pixels of type I;16; save it with 8 bits a channel first"):
        read_image(tmp_path / "deep.png")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"cannot be read: Image size .* could be decompression bomb"):
        read_image(tmp_path / "a.png")
