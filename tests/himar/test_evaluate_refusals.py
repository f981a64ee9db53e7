"""himar evaluate with what cannot be measured: one sentence, before hours of sampling, and nothing left behind."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_evaluation import make, one_error, run

import himar.evaluation.samples as samples
from himar.checkpoints import load_checkpoint, save_checkpoint
from himar.evaluation.samples import SampleRun
from himar_kernels import InputError


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
    assert make(model, tmp_path / "s.npz", "--guidance", "1e38") == 1
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
