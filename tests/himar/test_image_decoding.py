"""Any image file: one picture as a person sees it, or one reason, whatever the decoder does; and bounded memory."""

import errno
import io
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

import himar.image_crop
from himar.file_check import require_readable
from himar.image_crop import UnreadableImageError, check_image, read_crop, read_picture, read_pixels
from himar_kernels import InputError

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stores a picture whose orientation it gives so."""


class PanicException(BaseException):
    """What a decoder in Rust raises: no Exception."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to decode image"), struct.error("unpack requires 4 bytes"), IndexError("out of range"),
        KeyError("x"), TypeError("bad"), MemoryError(), AttributeError("no"), zlib.error("Error -3"),
        OverflowError("big"), NotImplementedError(), RecursionError("deep"), ZeroDivisionError("0"), AssertionError(),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "no"), OSError("broken data stream"), PanicException("at src/lib.rs"),
        Image.DecompressionBombError("too many pixels"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_a_reason(tmp_path, monkeypatch, error):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")

    def broken(self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", broken)
    for read in (read_pixels, check_image, lambda path: read_crop(path, 16)):
        with pytest.raises(UnreadableImageError) as caught:
            read(tmp_path / "a.png")
        assert str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), OSError(errno.EMFILE, "Too many open files")])
def test_what_is_not_the_files_fault_is_no_reason(tmp_path, monkeypatch, error):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")

    def broken(self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", broken)
    with pytest.raises(type(error)):
        read_pixels(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_their_exif_says(tmp_path, ending, orientation):
    blocks = np.arange(48, dtype=np.uint8).reshape(6, 8).repeat(8, 0).repeat(8, 1) * 5
    upright = Image.fromarray(blocks[..., None].repeat(3, 2))
    exif = Image.Exif()
    exif[274] = orientation
    stored = upright.transpose(TURNS[orientation]) if orientation > 1 else upright
    options = {"lossless": True} if ending == "webp" else {}
    stored.save(tmp_path / f"a.{ending}", exif=exif.tobytes(), **options)
    picture = read_picture(tmp_path / f"a.{ending}")
    assert picture.turned == (orientation > 1)
    assert np.abs(picture.pixels.astype(int) - np.asarray(upright)).max() <= 1
    checked = check_image(tmp_path / f"a.{ending}")
    assert (checked.size, checked.turned) == ((48, 64), orientation > 1)


def test_damaged_exif_costs_no_image(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9))
    picture = read_picture(tmp_path / "a.jpg")
    assert (picture.pixels.shape, picture.turned) == ((30, 40, 3), False)


@pytest.mark.parametrize(
    ("mode", "ending"), [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "webp"), ("PA", "tif")]
)
def test_colours_hidden_under_transparency_are_white(tmp_path, mode, ending):
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 40))
    image.convert(mode).save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    picture = read_picture(tmp_path / f"a.{ending}")
    assert picture.transparent
    assert check_image(tmp_path / f"a.{ending}").transparent
    assert picture.pixels[0, 39].tolist() == [255, 255, 255]
    assert picture.pixels[0, 0].tolist() == ([29, 29, 29] if mode == "LA" else [0, 0, 255])


def test_an_opaque_alpha_channel_and_a_transparent_colour_are_told_apart(tmp_path):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    colours.convert("RGBA").save(tmp_path / "opaque.png")
    assert not read_picture(tmp_path / "opaque.png").transparent
    assert np.array_equal(read_pixels(tmp_path / "opaque.png"), np.asarray(colours))
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert read_picture(tmp_path / "key.png").transparent
    assert read_pixels(tmp_path / "key.png").min() == 255


def test_large_texts_and_profiles_cost_no_image(tmp_path):
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 3
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "x" * 3_000_000, zip=True)
    texts.add_itxt("Description", "y" * 3_000_000, zip=True)
    pixels.save(tmp_path / "a.png", pnginfo=texts, icc_profile=bytes(3_000_000), exif=exif)
    with pytest.raises(ValueError, match="MAX_TEXT"), Image.open(tmp_path / "a.png") as image:
        image.load()
    picture = read_picture(tmp_path / "a.png")
    assert picture.turned
    assert np.array_equal(picture.pixels, np.asarray(pixels)[::-1, ::-1])
    # The orientation may itself be one of the texts; one too large is left out with the others.
    for size, turned in ((10, True), (3_000_000, False)):
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", "x" * 3_000_000, zip=True)
        texts.add_itxt("XML:com.adobe.xmp", "<tiff:Orientation>6</tiff:Orientation>" + " " * size, zip=True)
        pixels.save(tmp_path / "b.png", pnginfo=texts)
        assert read_picture(tmp_path / "b.png").turned == turned


def test_many_texts_cost_no_image(tmp_path, monkeypatch):
    texts = PngImagePlugin.PngInfo()
    for number in range(20):
        texts.add_text(f"Comment {number}", "x" * 900)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png", pnginfo=texts)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 9000)
    assert read_pixels(tmp_path / "a.png").shape == (30, 40, 3)


def test_a_file_without_postscript_never_starts_ghostscript(tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.eps")
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(UnreadableImageError, match="cannot identify"):
        read_pixels(tmp_path / "a.eps")


@pytest.mark.parametrize(("width", "height"), [(2, 9000), (9000, 2), (1, 1), (30_001, 3), (7, 64), (300, 20_000)])
def test_the_crop_of_a_thin_picture_is_its_middle_and_small(tmp_path, width, height, monkeypatch):
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 250, height)[:, None]
    ramp[..., 1] = np.linspace(0, 250, width)[None]
    Image.fromarray(ramp).save(tmp_path / "a.png")
    largest = 0
    resize = Image.Image.resize

    def watched(self, size, *rest, **more):
        nonlocal largest
        largest = max(largest, size[0] * size[1])
        return resize(self, size, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    crop = read_crop(tmp_path / "a.png", 64)
    assert crop.shape == (64, 64, 3)
    assert largest <= max(64 * 64 * 18, width * height / 4)
    for channel, side in ((0, height), (1, width)):
        if side > 1 and side == max(width, height):
            assert abs(crop[..., channel].mean() - 125) < 2


def test_ordinary_pictures_are_cropped_as_adm_does(tmp_path):
    for width, height in ((100, 90), (300, 80), (33, 40)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
        image.save(tmp_path / "a.png")
        while min(image.size) >= 128:
            image = image.resize(tuple(side // 2 for side in image.size), Image.Resampling.BOX)
        scale = 64 / min(image.size)
        image = image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC)
        left, top = ((side - 64) // 2 for side in image.size)
        expected = np.asarray(image)[top : top + 64, left : left + 64]
        assert np.array_equal(read_crop(tmp_path / "a.png", 64), expected)


def test_one_large_picture_at_a_time_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(himar.image_crop, "_LARGE", 64 * 64)
    at_once, most = 0, 0
    load = ImageFile.ImageFile.load

    def watched(self):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        loaded = load(self)
        at_once -= 1
        return loaded

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_pixels, [tmp_path / "a.png"] * 40))
    assert most == 1


def test_pillows_warnings_stay_away_and_others_do_not(tmp_path):
    Image.new("P", (40, 40)).save(tmp_path / "a.png", transparency=b"\0\1")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read_pixels, [tmp_path / "a.png"] * 20))
        assert not heard
        warnings.warn("still heard", stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["still heard"]


def test_files_that_cannot_be_read_are_named_together(tmp_path):
    paths = []
    for number in range(300):
        paths.append(tmp_path / f"{number:03d}.png")
        paths[-1].write_bytes(b"no image")
    calls = []
    with pytest.raises(
        InputError, match=r"000\.png \(.*identify.*002\.png .* and at least 253 more cannot be read; go"
    ):
        require_readable(paths, check_image, "go", lambda *done: calls.append(done), readers=2)
    assert calls[-1] == (256, 300)
    with pytest.raises(InputError, match=r"^\S+000\.png \([^)]*\) cannot be read; go\.$"):
        require_readable(paths[:1], check_image, "go")
    Image.new("RGB", (4, 4)).save(paths[0])
    require_readable(paths[:1], check_image, "go")


def test_a_damaged_tail_is_found_by_the_check_as_by_the_reader(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        path = tmp_path / f"a.{kind.lower()}"
        path.write_bytes(buffer.getvalue()[:-400])
        for read in (check_image, read_pixels):
            with pytest.raises(UnreadableImageError):
                read(path)


def test_the_fuzz_runs(tmp_path):
    sys.path.insert(0, str(Path(__file__).parent))
    import fuzz_images

    kinds = fuzz_images.write_files(tmp_path / "images", range(52), seed=5)
    assert len(kinds) >= 20
    found = fuzz_images.try_files(tmp_path / "images", tmp_path / "cache")
    assert found["files"] == 52
    assert 0 < found["readable"] < 52
