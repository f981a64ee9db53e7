"""himar evaluate with what cannot be measured: one sentence, before hours of sampling, and nothing left behind."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import himar.evaluation.samples as samples
from himar.evaluation.samples import SampleRun
from himar.families.hi_mar.checkpoints import load_checkpoint, save_checkpoint
from himar_kernels import InputError
from tests.himar.small_evaluation import make, one_error, run


def test_what_a_measurement_needs_is_asked_before_hours_of_sampling(model, tmp_path, capsys):
    out = tmp_path / "s.npz"
    assert make(model, out, "--against", str(tmp_path / "absent.npz"), "--extractor", "digits") == 1
    assert "does not exist" in one_error(capsys)
    assert make(model, out, "--inception", str(tmp_path / "absent.pth")) == 1
    assert "pt_inception-2015-12-05-6726825d.pth" in one_error(capsys)
    assert make(model, out, "--against", str(out.parent)) == 1
    assert "--inception" in one_error(capsys)
    assert make(model, out, "--images", "25") == 1
    assert "25 images cannot be shared equally by 10 classes" in one_error(capsys)
    assert not list(tmp_path.iterdir())


def test_a_refused_evaluation_leaves_nothing(model, tmp_path, capsys):
    """Neither an empty folder of parts, nor hours of images before a reference that cannot be used."""
    out = tmp_path / "s.npz"
    bad = tmp_path / "bad.npz"
    np.savez(bad, mu=np.zeros(64), sigma=np.eye(64), images=np.array([1, 2]))
    assert make(model, out, "--against", str(bad), "--extractor", "digits") == 1
    assert "it must be one whole number" in one_error(capsys)
    assert make(model, out, "--save-statistics", str(tmp_path / "no" / "x.npz"), "--extractor", "digits") == 1
    assert "create the folder that it goes into first" in one_error(capsys)
    other = Path(__file__).parents[1] / "golden" / "vae-narrow.ckpt"
    assert make(model, out, "--vae", str(other)) == 1
    assert "latents of 16 channels" in one_error(capsys)
    assert make(model, out, "--merge") == 1
    assert "let every shard make its images first" in one_error(capsys)
    assert make(model, tmp_path / "bad.npz" / "s.npz") == 1
    assert "Not a directory" in one_error(capsys)
    assert list(tmp_path.iterdir()) == [bad]


def test_images_that_are_not_finite_are_never_written(model, tmp_path, capsys):
    broken = load_checkpoint(model)
    broken.z_proj.weight[0, 0] = float("nan")
    save_checkpoint(broken, tmp_path / "broken.safetensors")
    assert make(tmp_path / "broken.safetensors", tmp_path / "s.npz") == 1
    assert "z_proj.weight holds values that are not finite" in one_error(capsys)
    broken.z_proj.weight.fill_(3e38)
    save_checkpoint(broken, tmp_path / "huge.safetensors")
    assert make(tmp_path / "huge.safetensors", tmp_path / "s.npz") == 1
    assert "image 0 is not finite; lower the guidance" in one_error(capsys)
    assert not (tmp_path / "s.npz").exists()


def test_bad_images_are_one_sentence(digits, tmp_path, capsys):
    arguments = ("--against", digits[0], "--extractor", "digits")
    assert run("evaluate", tmp_path / "absent", *arguments) == 1
    assert "does not exist" in one_error(capsys)
    np.savez(tmp_path / "wide.npz", np.zeros((20, 64, 64, 3), np.uint8))
    assert run("evaluate", tmp_path / "wide.npz", *arguments) == 1
    assert "(m, 32, 32, 3)" in one_error(capsys)
    np.savez(tmp_path / "few.npz", np.zeros((10, 32, 32, 3), np.uint8))
    assert run("evaluate", tmp_path / "few.npz", *arguments, "-k", "10") == 1
    assert "k is 10, but the measured set has 10 images" in one_error(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["images", "--seed", "0"],
        ["images", "--merge"],
        ["images", "--device", "tpu9"],
        ["images", "--save-statistics", "s.txt"],
        ["", "--extractor", "digits"],
        ["model.pth", "--images", "10", "--out", "s.npz", "--guidance", "nan"],
        ["model.pth", "--images", "10", "--out", "s.npz", "--seed", "99999999999999999999"],
        ["images", "--extractor", "digits", "--inception", "x.pth"],
        ["model.pth", "--out", "s.npz"],
        ["model.pth", "--images", "10"],
        ["model.pth", "--images", "10", "--out", "s.png"],
        ["model.pth", "--images", "10", "--out", "s.npz", "--shard", "0/2"],
        ["model.pth", "--images", "10", "--out", "s.npz", "--shard", "3/2"],
        ["model.pth", "--images", "10", "--out", "s.npz", "--shard", "1/2", "--merge"],
        ["model.pth", "--images", "10", "--out", "s.npz", "--shard", "1/2", "--extractor", "digits"],
        ["model.pth", "--images", "10", "--out", "s.npz", "--per-class", "--random-classes"],
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    assert run("evaluate", *arguments) == 2


def test_a_shard_out_of_range_or_a_folder_that_cannot_be_used_is_refused(model, tmp_path):
    run_of = SampleRun("", "", load_checkpoint(model).config.to_dict(), {}, 10, 0)
    parts = tmp_path / "parts"
    with pytest.raises(InputError, match="shard is 3/2"):
        samples.make_parts(run_of, None, None, parts, 3, 2)
    parts.mkdir()
    (parts / "part-000000.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no run\.json; let every shard make its images first"):
        samples.merge_parts(run_of, parts, tmp_path / "s.npz")
    with pytest.raises(InputError, match="at least 1"):
        SampleRun("", "", {"classes": 10}, {}, 0, 0)


@pytest.mark.parametrize("option", ["--neighbours", "--batch"])
def test_a_measurement_s_settings_are_refused_where_images_are_only_made(model, tmp_path, capsys, option):
    out = tmp_path / "s.npz"
    assert run("evaluate", model, "--images", "10", "--out", out, option, "5") == 2
    assert f"{option} is for measuring" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class Never:
    """An extractor that no image may reach."""

    name, sha256 = "never", "abc"

    def __call__(self, images: np.ndarray):
        raise AssertionError("a feature was computed")


def write_digits(folder: Path, count: int = 30) -> Path:
    """Write images of 32 pixels in two class folders."""
    for number in range(count):
        path = folder / ("even" if number % 2 else "odd") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return folder


@pytest.mark.parametrize("where", ["source", "reference"])
def test_files_that_cannot_be_measured_are_named_before_any_feature(where, digits, tmp_path, capsys, monkeypatch):
    folder = write_digits(tmp_path / "images")
    (folder / "odd" / "28.png").write_bytes((folder / "odd" / "28.png").read_bytes()[:900])
    Image.new("RGB", (16, 16)).save(folder / "even" / "29.png")
    monkeypatch.setattr("himar.cli.evaluate._extractor", lambda *rest: Never())
    given = (folder, "--against", digits[0]) if where == "source" else (digits[0], "--against", folder)
    assert run("evaluate", *given, "--extractor", "digits") == 1
    said = one_error(capsys)
    assert "odd/28.png (" in said
    assert "even/29.png (it is 16×16 pixels, but the images before it are 32×32)" in said
    assert "remove or replace them" in said


def test_a_reference_is_read_before_hours_of_sampling(model, tmp_path, capsys):
    folder = write_digits(tmp_path / "images")
    (folder / "even" / "29.png").write_bytes(b"no image")
    assert make(model, tmp_path / "s.npz", "--against", str(folder), "--extractor", "digits") == 1
    assert "even/29.png (cannot identify" in one_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_archive_that_is_cut_short_is_refused_when_it_is_opened(tmp_path, capsys):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (30, 32, 32, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(bytes(20 * 32 * 32 * 3 + 5))
    assert run("evaluate", path, "--extractor", "digits") == 1
    assert "is cut short at image 20" in one_error(capsys)


def test_strays_are_left_out_and_changes_are_counted(digits, tmp_path, capsys):
    folder = write_digits(tmp_path / "images")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 40)
    (folder / "odd" / ".DS_Store").write_bytes(b"\0")
    exif = Image.Exif()
    exif[274] = 6
    Image.open(folder / "odd" / "00.png").save(folder / "odd" / "00.png", exif=exif)
    Image.new("RGBA", (32, 32), (1, 2, 3, 4)).save(folder / "odd" / "02.png")
    assert run("evaluate", folder, "--against", digits[1], "--extractor", "digits", "--json") == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert (report["images"], report["turned"], report["transparent"]) == (30, 1, 1)
    assert "note: left out Thumbs.db: not an image" in output.err
    assert "note: left out odd/.DS_Store: hidden" in output.err
    assert output.err.index("Thumbs.db") < output.err.index("checking the images")
    assert run("evaluate", folder, "--extractor", "digits") == 0
    assert "30 images, 1 rotated by EXIF, 1 transparent, put on white, against no reference" in capsys.readouterr().out
