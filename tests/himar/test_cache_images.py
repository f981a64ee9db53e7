"""Which images a user's folder or list holds, and the crop that is made of each."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himar.data.crop import UnreadableImageError, read_crop, read_pixels
from himar.data.folder import list_images
from himar_kernels import InputError


def picture(path: Path, width: int = 40, height: int = 40, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def refusal(source: Path) -> str:
    with pytest.raises(InputError) as caught:
        list_images(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path):
    for name in ("n02/b.png", "n01/z.png", "n02/deep/a.png", "n10/a.png", "n01/.hidden.png", ".cache/x.png", "top.png"):
        picture(tmp_path / name)
    images = list_images(tmp_path)
    assert images.class_names == ("n01", "n02", "n10")
    assert images.names == ("n01/z.png", "n02/b.png", "n02/deep/a.png", "n10/a.png")
    assert images.labels == (0, 1, 1, 2)
    assert [(entry.path, entry.reason) for entry in images.skipped] == [
        (".cache", "hidden"), ("top.png", "lies outside the class folders"), ("n01/.hidden.png", "hidden")
    ]  # fmt: skip


def test_a_list_file_gives_paths_relative_to_itself(tmp_path):
    picture(tmp_path / "a b.png")
    (tmp_path / "list.txt").write_text("# images\na b.png 1\n\nother/c.png\t0\n")
    images = list_images(tmp_path / "list.txt")
    assert images.names == ("a b.png", "other/c.png")
    assert images.labels == (1, 0)
    assert images.path(0) == tmp_path / "a b.png"


def test_what_cannot_be_listed_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "absent")
    assert "no subfolders" in refusal(tmp_path)
    picture(tmp_path / "folder" / "cat" / "a.png")
    (tmp_path / "folder" / "dog").mkdir()
    assert "dog is empty" in refusal(tmp_path / "folder")
    file = tmp_path / "list.txt"
    for text, reason in (
        ("", "names no images"),
        ("a.png", "line 1"),
        ("a.png 0\nb.png cat", "line 2"),
        ("a.png -1", "line 1"),
        ("a.png 0\na.png 0", "a.png twice"),
        ("a.png 0\nb.png 2", "no image of class 1"),
    ):
        file.write_text(text)
        assert reason in refusal(file)
    file.write_bytes(b"\xff\xfe\x00")
    assert "as text" in refusal(file)


def test_a_list_with_a_huge_class_number_is_refused_at_once(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("a.png 0\nb.png 999999999")
    assert "no image of class 1; classes are 0 to 999999999" in refusal(file)
    file.write_text("a.png " + "9" * 5000)
    assert "a class number from 0" in refusal(file)


def test_a_list_of_many_names_is_searched_for_doubles_once(tmp_path):
    file = tmp_path / "list.txt"
    names = [f"{number}.png 0" for number in range(100_000)]
    file.write_text("\n".join([*names, names[-1]]))
    assert "names 99999.png twice" in refusal(file)


def test_names_need_not_be_utf_8_and_broken_links_are_listed(tmp_path):
    folder = tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    picture(Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")))
    images = list_images(tmp_path / "images")
    assert len(images.names) == 3
    assert len(images.fingerprint()) == 64
    for name, text in (("cat/gone.png", "No such file"), ("cat/pipe.png", "not a plain file")):
        with pytest.raises(UnreadableImageError, match=text):
            read_crop(images.path(images.names.index(name)), 16)


def test_the_fingerprint_knows_another_list(tmp_path):
    file = tmp_path / "list.txt"
    prints = set()
    for text in ("a.png 0\nb.png 1", "b.png 1\na.png 0", "a.png 1\nb.png 0"):
        file.write_text(text)
        prints.add(list_images(file).fingerprint())
    assert len(prints) == 3


@pytest.mark.parametrize(("width", "height"), [(32, 32), (47, 33), (200, 90), (20, 50)])
def test_the_crop_is_the_centre_of_the_shorter_side(tmp_path, width, height):
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 250, width)[None]
    ramp[..., 1] = np.linspace(0, 250, height)[:, None]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    crop = read_crop(tmp_path / "ramp.png", 32).astype(float)
    assert crop.shape == (32, 32, 3)
    short = min(width, height)
    for axis, length, channel in ((1, width, 0), (0, height, 1)):
        line = crop[..., channel].mean(axis=1 - axis)
        assert abs(line.mean() - 125) < 3
        assert abs((line[-1] - line[0]) - 250 * (short / length) * 31 / 32) < 12


def test_a_square_of_the_wanted_size_is_left_as_it_is(tmp_path):
    path = picture(tmp_path / "a.png", 32, 32)
    assert np.array_equal(read_crop(path, 32), read_pixels(path))


def test_large_images_are_box_filtered_before_they_are_resized(tmp_path):
    # One white pixel column in two: without the box filter its phase would decide the grey.
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "s.png")
    assert np.ptp(read_crop(tmp_path / "s.png", 32)) <= 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = picture(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode=mode)
    assert read_pixels(path).shape == (40, 40, 3)


def test_what_is_no_image_says_why(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    whole = picture(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    reasons = {}
    for path in sorted(tmp_path.glob("*.png")):
        if path.name != "whole.png":
            with pytest.raises(UnreadableImageError) as caught:
                read_crop(path, 16)
            reasons[path.name] = str(caught.value)
    assert set(reasons) == {"cut.png", "deep.png", "empty.png", "text.png"}
    assert "8 bits" in reasons["deep.png"]
    assert all(reason and str(tmp_path) not in reason for reason in reasons.values())
