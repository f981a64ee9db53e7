"""Captions files: images by ascending id with all their captions, and what is refused."""

import pytest

from himar.data.captions import read_captions
from himar_kernels import InputError
from tests.himar.small_captions import ANNOTATIONS, write_captions, write_images

IMAGES, CAPTIONS = ANNOTATIONS["images"], ANNOTATIONS["annotations"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("captions") / "train2014")


def test_images_stand_by_ascending_id_with_all_their_captions(images, tmp_path):
    read = read_captions(write_captions(tmp_path / "captions.json"), images)
    assert (read.ids, read.names) == ((9, 25, 30), ("a.png", "b.png", "c.png"))
    assert read.captions[0] == ("Two zebras.", "Zebras in a field")
    assert read.captions[1] == ("A kitchen.\n",)
    assert len(read.captions[2]) == 3
    assert read.path(2) == images / "c.png"


def test_the_fingerprint_tells_captions_and_not_the_order_of_images(images, tmp_path):
    first = read_captions(write_captions(tmp_path / "captions.json"), images).fingerprint()
    turned = write_captions(tmp_path / "turned.json", images=IMAGES[::-1])
    assert read_captions(turned, images).fingerprint() == first
    other = [{**CAPTIONS[0], "caption": "A blue bus."}, *CAPTIONS[1:]]
    changed = write_captions(tmp_path / "other.json", annotations=other)
    assert read_captions(changed, images).fingerprint() != first


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": [*IMAGES, {"id": 4, "file_name": "d.png"}]}, r"1 image without a caption in .*: d.png \(id 4\)"),
        ({"annotations": CAPTIONS[:1]}, r"2 images without a caption in .*: a.png \(id 9\), b.png \(id 25\); write"),
        (
            {"images": [*IMAGES[:2], {"id": 25, "file_name": "no.png"}]},
            r"1 image of .* does not have: no.png; give the",
        ),
        ({"images": IMAGES[:2]}, "annotation 2 is of image 25, which the file does not list; list it, or"),
        ({"images": [*IMAGES, IMAGES[0]]}, "two images of id 30, c.png and c.png"),
        ({"images": [{"id": 9, "file_name": "../a.png"}]}, r"image 9 is ../a.png, which leads out of its folder"),
        ({"images": [{"id": 9, "file_name": "/a.png"}]}, r"which leads out of its folder"),
        ({"images": [{"id": "9", "file_name": "a.png"}]}, r"id of image 0 is '9', not a whole number"),
        ({"images": None}, 'it has no list "images"'),
        ({"annotations": []}, 'it has no list "annotations"'),
        ({"annotations": [*CAPTIONS, {"image_id": 9}]}, "caption of annotation 6 is None, not text"),
        ({"annotations": [*CAPTIONS, {"image_id": 9, "caption": " \n"}]}, "annotation 6, of image 9, is blank"),
        (
            {"annotations": [*CAPTIONS, {"image_id": 9, "caption": "a <|endoftext|>"}]},
            r"annotation 6, of image 9, holds <\|endoftext\|>, which would end or start it for the model; leave it out",
        ),
        (
            {"annotations": [*CAPTIONS, {"image_id": 9, "caption": "a\ud800"}]},
            r"annotation 6, of image 9, holds half a character at 1 \(a lone surrogate\); write it as UTF-8",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(images, tmp_path, changes, text):
    with pytest.raises(InputError, match=text):
        read_captions(write_captions(tmp_path / "captions.json", **changes), images)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"images": [', "it is damaged or no JSON"),
        (b"\xff\xd8\xff\xe0", "it is damaged or no JSON"),
        (b"[" * 100_000, "it is damaged or no JSON"),
        (b"[1]", 'it has no list "images"'),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_none_is_refused(images, tmp_path, content, text):
    path = tmp_path / "captions.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=text):
        read_captions(path, images)
