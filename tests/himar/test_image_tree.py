"""What of a folder counts as an image: links followed, strays named, classes in the order of their numbers."""

import os
from pathlib import Path

import pytest
from PIL import Image

from himar.data.folder import alike_classes, class_order, describe_classes, list_images, order_advice
from himar.data.tree import left_out_sentences, list_tree
from himar.evaluation.image_sets import open_images
from himar_kernels import InputError


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")
    return path


def test_linked_folders_are_followed_at_every_level(tmp_path):
    picture(tmp_path / "images" / "cat" / "here.png")
    for name in ("disk/a.png", "disk/deep/b.png", "dogs/c.png"):
        picture(tmp_path / name)
    (tmp_path / "images" / "cat" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "dogs")
    images = list_images(tmp_path / "images")
    assert images.names == ("cat/here.png", "cat/more/a.png", "cat/more/deep/b.png", "dog/c.png")
    assert images.class_names == ("cat", "dog")
    assert open_images(tmp_path / "images").count == 4


@pytest.mark.parametrize(
    ("link", "target"), [("cat/up", "."), ("cat/self", "cat"), ("loop", "."), ("cat/a/b", "cat/a")]
)
def test_links_in_a_circle_are_refused(tmp_path, link, target):
    picture(tmp_path / "cat" / "a" / "x.png")
    (tmp_path / link).symlink_to(tmp_path / target)
    for list_ in (list_images, open_images):
        with pytest.raises(InputError, match="is a link back to a folder that it lies in; remove the link"):
            list_(tmp_path)


def test_a_link_to_itself_counts_as_a_file_that_cannot_be_read(tmp_path):
    picture(tmp_path / "cat" / "x.png")
    (tmp_path / "cat" / "y.png").symlink_to("y.png")
    assert list_images(tmp_path).names == ("cat/x.png", "cat/y.png")


def test_strays_are_left_out_and_named(tmp_path):
    picture(tmp_path / "cat" / "a.png")
    picture(tmp_path / "cat" / "no_ending")
    picture(tmp_path / "cat" / "photo.heic")  # an image for which Pillow may lack a plugin is not a stray
    strays = ["Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt", "._a.png", "labels.json", "README"]
    for name in strays:
        (tmp_path / "cat" / name).write_bytes(b"\xd0\xcf\x11\xe0" * 9)
    picture(tmp_path / "__MACOSX" / "cat" / "a.png")
    picture(tmp_path / "cat" / "@eaDir" / "a.png")
    (tmp_path / "list.csv").write_text("")
    images = list_images(tmp_path)
    assert images.names == ("cat/a.png", "cat/no_ending", "cat/photo.heic")
    assert images.class_names == ("cat",)
    assert {entry.path for entry in images.skipped} == {
        *(f"cat/{name}" for name in strays), "__MACOSX", "cat/@eaDir", "list.csv"
    }  # fmt: skip
    sentences = left_out_sentences(images.skipped)
    assert "left out __MACOSX, cat/@eaDir: no folder of images" in sentences
    assert "left out cat/README, cat/Thumbs.db, cat/desktop.ini and 2 more: not an image" in sentences
    measured = open_images(tmp_path)
    assert measured.count == 3
    assert {entry.path for entry in measured.skipped} >= {"cat/Thumbs.db", "__MACOSX", "list.csv"}


def test_a_class_of_strays_alone_is_refused(tmp_path):
    picture(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("later")
    with pytest.raises(InputError, match=r"dog is empty but for dog/notes\.txt, which is not an image"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="dog is empty, or holds no images"):
        open_images(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    picture(tmp_path / "cat" / "deep" / "a.png")

    def closed(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    scan = os.scandir
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InputError, match="deep cannot be read: Permission denied; check its permissions"):
        list_tree(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_with_a_byte_order_mark_are_read(tmp_path, encoding):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "l.txt").write_bytes((mark + "ä b.png 1\r\nc.png 0\r\n").encode(encoding))
    images = list_images(tmp_path / "l.txt")
    assert (images.names, images.labels) == (("ä b.png", "c.png"), (1, 0))


def test_a_list_in_utf_16_without_a_mark_is_refused(tmp_path):
    (tmp_path / "l.txt").write_bytes("a.png 0\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="zero bytes; save it as UTF-8"):
        list_images(tmp_path / "l.txt")


def test_folders_named_by_whole_numbers_go_by_their_value(tmp_path):
    for number in range(12):
        picture(tmp_path / str(number) / "x.png")
    images = list_images(tmp_path)
    assert images.class_names == tuple(map(str, range(12)))
    assert images.names[2] == "2/x.png"
    assert images.labels == tuple(range(12))
    former = images.former()
    assert former.class_names[:4] == ("0", "1", "10", "11")
    assert former.names[2] == "10/x.png"
    assert former.former().class_names == former.class_names
    picture(tmp_path / "cat" / "x.png")
    assert list_images(tmp_path).class_names[:4] == ("0", "1", "10", "11")


def test_the_former_list_took_every_file_for_an_image(tmp_path):
    for name in ("cat/a.png", "dog/b.png"):
        picture(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("")
    images = list_images(tmp_path)
    assert images.former().names == ("cat/a.png", "cat/notes.txt", "dog/b.png")
    assert images.former().labels == (0, 0, 1)


def test_orders_are_told_in_words():
    assert class_order(["10", "9", "007"]) == ["007", "9", "10"]
    assert class_order(["10", "9", "x"]) == ["10", "9", "x"]
    assert describe_classes(["cat"]) == "1 class: 0 = cat"
    assert describe_classes([str(n) for n in range(9)]) == "9 classes: 0 = 0, 1 = 1, 2 = 2, 3 = 3, 4 = 4, …, 8 = 8"
    assert order_advice(["0", "1", "2"]) is None
    assert order_advice(["b", "a"]) is None
    assert "class 1 is the folder 10" in order_advice(["0", "10", "2"])
    assert alike_classes(["cat", "dog"]) is None
    assert "'Cat' and 'cat' differ in upper and lower case" in alike_classes(["Cat", "cat"])
    assert alike_classes(["caf\u00e9", "cafe\u0301"])
