"""What can be measured: folders, ADM-style .npz and reference statistics, and how anything else is answered."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himar.evaluation.extractor import Features
from himar.evaluation.image_sets import open_images
from himar.evaluation.measure import check_reference, measure, open_reference, statistics_of
from himar.evaluation.metrics import fit_gaussian, frechet_distance
from himar.evaluation.statistics_files import read_statistics, write_statistics
from himar_kernels import InputError


class Means:
    """Features without weights: mean colours of the image's quarters."""

    name, sha256 = "means", "abc"

    def __call__(self, images: np.ndarray) -> Features:
        count, height, width = images.shape[:3]
        quarters = images.reshape(count, 2, height // 2, 2, width // 2, 3).mean(axis=(2, 4)).astype(np.float32) / 255
        spatial = quarters.reshape(count, 12)
        pool = quarters.mean(axis=(1, 2))
        return Features(pool, spatial, pool / pool.sum(axis=1, keepdims=True))


def pictures(count: int = 30, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_folder(folder: Path, images: np.ndarray, classes: int = 3) -> Path:
    for index, image in enumerate(images):
        path = folder / f"class{index * classes // len(images)}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def write_npz(path: Path, save=np.savez, **arrays: np.ndarray) -> Path:
    save(path, **arrays)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_folder_and_archives_give_the_same_images_in_batches(tmp_path, save):
    images = pictures()
    folder = open_images(write_folder(tmp_path / "folder", images))
    archive = open_images(write_npz(tmp_path / "a.npz", save, arr_0=images, arr_1=np.arange(30)))
    for source in (folder, archive):
        assert (source.count, source.size) == (30, (8, 8))
        batches = list(source.batches(7))
        assert [len(batch) for batch in batches] == [7, 7, 7, 7, 2]
        assert np.array_equal(np.concatenate(batches), images)


def test_a_folder_without_classes_is_measured_too(tmp_path):
    Image.fromarray(pictures()[0]).save(tmp_path / "a.png")
    assert open_images(tmp_path).count == 1


def refusal(source: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(open_images(source).batches(4))
    text = str(caught.value)
    assert "\n" not in text
    assert str(source) in text
    return text


def test_folders_that_cannot_be_measured_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no images" in refusal(empty)
    folder = write_folder(tmp_path / "folder", pictures())
    (folder / "class9").mkdir()
    assert "class9 is empty" in refusal(folder)
    (folder / "class9" / "a.png").write_text("no")
    assert "not a readable image" in refusal(folder)
    Image.fromarray(pictures(size=16)[0]).save(folder / "class9" / "a.png")
    assert "16×16 pixels, but the images before it are 8×8" in refusal(folder)
    (folder / "manifest.json").write_text("{}")
    assert "bundle" in refusal(folder)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"images": pictures()}, "no arr_0; it holds images"),
        ({"arr_0": pictures().astype(np.float32)}, "float32"),
        ({"arr_0": pictures().transpose(0, 3, 1, 2)}, r"uint8 (30, 3, 8, 8)"),
        ({"arr_0": pictures()[0]}, "(8, 8, 3)"),
        ({"arr_0": pictures()[:0]}, "(0, 8, 8, 3)"),
        ({"arr_0": np.asfortranarray(pictures())}, "column order"),
    ],
)
def test_archives_of_another_layout_are_refused(tmp_path, arrays, named):
    assert named in refusal(write_npz(tmp_path / "a.npz", **arrays))


def test_damaged_archives_are_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", arr_0=pictures())
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert "damaged" in refusal(path)
    changed = bytearray(whole)
    changed[1000] ^= 1
    path.write_bytes(changed)
    assert "damaged" in refusal(path)
    (tmp_path / "a.txt").write_text("")
    assert "neither a folder" in refusal(tmp_path / "a.txt")


def test_odd_members_and_headers_of_an_archive_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0", b"no array of NumPy's")
    assert "has no arr_0" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", b"x" * 100)
    assert "damaged" in refusal(path)
    for shape, text in (((-4, 8, 8, 3), "uint8 (-4, 8, 8, 3)"), ((10**15, 8, 8, 3), "is cut short at image 0")):
        with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with pytest.raises(InputError) as refused:
            next(open_images(path).batches(4))
        assert text in str(refused.value)
    path.write_bytes(b"")
    assert "not an .npz" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": np.array([1, 2])}, r"images of .* is int64 \[1 2\]; it must be one whole number"),
        ({"images": np.array("many")}, "it must be one whole number of at least 1"),
        ({"images": np.array(-3)}, "it must be one whole number of at least 1"),
        ({"mu": np.array(["a", "b"])}, "damaged"),
        ({"mu": np.zeros(2, complex)}, "damaged"),
        ({"sigma": -np.eye(2)}, "a variance is -1, which cannot be"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(tmp_path, changes, text):
    path = write_npz(tmp_path / "s.npz", **{"mu": np.zeros(2), "sigma": np.eye(2), **changes})
    with pytest.raises(InputError, match=text):
        check_reference(path, Means())


def test_measuring_against_a_folder_an_archive_and_statistics_agrees(tmp_path):
    real, made = pictures(40, seed=1), pictures(50, seed=2)
    images = open_images(write_npz(tmp_path / "made.npz", arr_0=made))
    archive = write_npz(tmp_path / "real.npz", arr_0=real)
    statistics = tmp_path / "statistics.npz"
    write_statistics(statistics, statistics_of(Means()(real)), "means", "abc")
    reports = []
    for source in (archive, write_folder(tmp_path / "real", real), statistics):
        reports.append(measure(images, Means(), open_reference(source, Means(), 16))[0])
    assert len({(report.fid, report.sfid, report.inception_score) for report in reports}) == 1
    expected = frechet_distance(fit_gaussian(Means()(real).pool), fit_gaussian(Means()(made).pool))
    assert reports[0].fid == pytest.approx(expected)
    assert reports[0].precision == reports[1].precision > 0
    assert reports[2].precision is None
    assert [report.reference_images for report in reports] == [40, 40, 40]
    assert (reports[0].images, reports[0].extractor, reports[0].extractor_sha256) == (50, "means", "abc")


def test_adms_reference_files_give_statistics_of_all_and_images_for_precision(tmp_path):
    # As published: statistics of the whole data set beside some of its images, and no word on who made them.
    everyone, some = Means()(pictures(200, seed=3)), pictures(40, seed=1)
    whole = statistics_of(everyone)
    path = write_npz(
        tmp_path / "ref.npz",
        arr_0=some,
        mu=whole.pool.mean,
        sigma=whole.pool.covariance,
        mu_s=whole.spatial.mean,
        sigma_s=whole.spatial.covariance,
    )
    images = open_images(write_npz(tmp_path / "made.npz", arr_0=pictures(50, seed=2)))
    report, features = measure(images, Means(), open_reference(path, Means(), 16))
    assert report.fid == pytest.approx(frechet_distance(whole.pool, fit_gaussian(features.pool)))
    assert report.sfid == pytest.approx(frechet_distance(whole.spatial, fit_gaussian(features.spatial)))
    plain = open_reference(write_npz(tmp_path / "some.npz", arr_0=some), Means(), 16)
    assert report.precision == measure(images, Means(), plain)[0].precision
    assert report.reference_images is None


def test_statistics_survive_a_file_and_are_read_by_plain_numpy(tmp_path):
    path = tmp_path / "s.npz"
    statistics = statistics_of(Means()(pictures()))
    write_statistics(path, statistics, "means", "abc")
    with np.load(path) as file:
        assert set(file.files) == {"mu", "sigma", "mu_s", "sigma_s", "images", "extractor", "extractor_sha256"}
        assert np.array_equal(file["sigma_s"], statistics.spatial.covariance)
    again = read_statistics(path, "abc")
    assert again.pool.count == 30
    assert np.array_equal(again.pool.covariance, statistics.pool.covariance)
    assert list(tmp_path.iterdir()) == [path]


def test_statistics_of_something_else_are_refused(tmp_path):
    statistics = statistics_of(Means()(pictures()))
    path = tmp_path / "s.npz"
    write_statistics(path, statistics, "other", "def")
    with pytest.raises(InputError, match="made with the extractor def"):
        open_reference(path, Means(), 16)
    five = np.zeros(5), np.eye(5)
    write_npz(tmp_path / "five.npz", mu=five[0], sigma=five[1])
    images = open_images(write_npz(tmp_path / "made.npz", arr_0=pictures()))
    with pytest.raises(InputError, match="features of 5 dimensions and the other of 3"):
        measure(images, Means(), open_reference(tmp_path / "five.npz", Means(), 16))
    write_npz(tmp_path / "odd.npz", mu=five[0], sigma=np.eye(4))
    with pytest.raises(InputError, match=r"odd.npz: a mean of shape \(5,\)"):
        read_statistics(tmp_path / "odd.npz")
    write_npz(tmp_path / "nan.npz", mu=five[0] * np.nan, sigma=np.eye(5))
    with pytest.raises(InputError, match=r"nan.npz: .*not finite"):
        read_statistics(tmp_path / "nan.npz")
    with pytest.raises(InputError, match="no mu and sigma; it holds arr_0"):
        read_statistics(tmp_path / "made.npz")
    with pytest.raises(InputError, match="cannot be written"):
        write_statistics(tmp_path / "absent" / "s.npz", statistics, "means", "abc")
    write_npz(tmp_path / "pickled.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(InputError, match="damaged"):
        read_statistics(tmp_path / "pickled.npz")


def test_numbers_that_mislead_come_with_a_warning(tmp_path):
    few = open_images(write_npz(tmp_path / "few.npz", arr_0=pictures(12)))
    large = write_npz(tmp_path / "large.npz", arr_0=pictures(60, 16))
    report, _ = measure(few, Means(), open_reference(large, Means(), 16))
    assert len(report.warnings) == 3
    assert "parts of 1 images, fewer than the extractor's 3 classes" in report.warnings[0]
    assert "measured set has 12 images, no more than the features' 12 dimensions" in report.warnings[1]
    assert "8×8 and the reference's 16×16" in report.warnings[2]
    many = open_images(write_npz(tmp_path / "many.npz", arr_0=pictures(60, 16, seed=4)))
    assert measure(many, Means(), open_reference(large, Means(), 16))[0].warnings == ()
