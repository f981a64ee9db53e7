"""himar evaluate: from a checkpoint to images that shards and kills do not change, and from images to numbers."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import himar.families.hi_mar.family as family
from himar.evaluation.samples import SampleRun
from himar.families.hi_mar.checkpoints import load_checkpoint, save_checkpoint
from himar.families.hi_mar.model import randomise
from himar.images import sample_images
from himar.vae.layouts import load_vae
from himar_kernels import PhiloxDraws
from tests.closeness import assert_same_pixels
from tests.himar.small_evaluation import VAE, make, one_error, run


def images_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        return file["arr_0"], file["arr_1"]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    """Twenty images made by one process that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "s.npz"
    assert make(model, out, "--per-class") == 0
    return out


def test_images_are_those_of_seed_and_index_with_equal_classes(model, whole):
    images, labels = images_of(whole)
    assert labels.tolist() == [*range(10)] * 2
    wanted = sample_images(load_checkpoint(model), load_vae(VAE), labels.tolist(), PhiloxDraws(5))
    assert_same_pixels(images, wanted)
    assert images.shape == (20, 32, 32, 3)
    assert list(whole.parent.iterdir()) == [whole]


def test_shards_in_any_order_give_the_same_file(model, whole, tmp_path, capsys):
    out = tmp_path / "shards.npz"
    assert make(model, out, "--shard", "3/3") == 0
    assert make(model, out, "--merge") == 1
    assert "3 of 4 parts are missing" in one_error(capsys)
    assert not out.exists()
    for shard in ("1/3", "2/3"):
        assert make(model, out, "--shard", shard, "--json") == 0
    outcomes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(outcome["images"], outcome["shard"]) for outcome in outcomes] == [(8, "1/3"), (6, "2/3")]
    assert make(model, out, "--merge") == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_killed_run_keeps_its_parts_and_ends_the_same(model, whole, tmp_path, monkeypatch):
    out = tmp_path / "killed.npz"
    code = (
        "import os, signal, sys, himar.evaluation.samples as s\n"
        "whole = s._write_part\n"
        "def write(path, images):\n"
        "    if path.name == 'part-000002.npy':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    whole(path, images)\n"
        "s._write_part = write\n"
        "from himar.cli import main; main(sys.argv[1:])\n"
    )
    arguments = ["evaluate", model, "--vae", VAE, "--images", "20", "--chunk", "6", "--seed", "5", "--out", out]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    parts = out.with_name("killed.npz.parts")
    assert sorted(path.name for path in parts.glob("part-*")) == ["part-000000.npy", "part-000001.npy"]
    (parts / "part-000001.npy").write_bytes(b"cut short")
    made = []

    def counted(*given, **more):
        made.append(more["first_index"])
        return sample_images(*given, **more)

    monkeypatch.setattr(family, "sample_images", counted)
    assert make(model, out) == 0
    assert made == [6, 12, 18]
    assert out.read_bytes() == whole.read_bytes()


def test_parts_of_another_run_are_never_mixed_in(model, tmp_path, capsys):
    out = tmp_path / "s.npz"
    assert make(model, out, "--shard", "1/2") == 0
    for change, named in ((("--seed", "6"), "seed"), (("--guidance", "2"), "sampling"), (("--chunk", "5"), "chunk")):
        assert make(model, out, *change) == 1
        assert f"another {named}" in one_error(capsys)
    other = tmp_path / "other.safetensors"
    save_checkpoint(randomise(load_checkpoint(model), 1), other)
    assert make(other, out) == 1
    assert "another model_sha256" in one_error(capsys)


def test_random_classes_follow_the_seed(model, tmp_path):
    assert make(model, tmp_path / "s.npz", "--random-classes", "--images", "13") == 0
    images, labels = images_of(tmp_path / "s.npz")
    assert len(images) == len(labels) == 13
    assert len(set(np.bincount(labels, minlength=10))) > 1
    config = {"classes": 10, "img_size": 32}
    runs = [SampleRun("", "", config, {}, 1000, seed, per_class=False).labels() for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert set(runs[0]) == set(range(10))


def test_real_digits_are_near_and_noise_is_far(digits, tmp_path, capsys):
    train, held_out = digits
    np.savez(tmp_path / "noise.npz", np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8))
    reports = []
    for source in (held_out, tmp_path / "noise.npz"):
        assert run("evaluate", source, "--against", train, "--extractor", "digits", "--json") == 0
        reports.append(json.loads(capsys.readouterr().out))
    real, noise = reports
    assert real["fid"] < 10 < 100 < noise["fid"]
    assert real["sfid"] < 10 < noise["sfid"]
    assert real["precision"] > 0.8 > 0.1 > noise["precision"]
    assert real["recall"] > 0.8
    assert real["inception_score"] > 8 > noise["inception_score"]
    assert (real["images"], real["reference_images"], real["extractor"]) == (360, 1437, "digits classifier")
    assert real["warnings"] == []


def test_statistics_are_saved_and_used(digits, tmp_path, capsys):
    train, held_out = digits
    saved = tmp_path / "train-statistics.npz"
    assert run("evaluate", train, "--extractor", "digits", "--save-statistics", saved) == 0
    text = capsys.readouterr().out
    assert "1437 images, against no reference" in text
    assert "digits classifier, sha256 " in text
    assert run("evaluate", held_out, "--against", saved, "--extractor", "digits", "--json") == 0
    by_statistics = json.loads(capsys.readouterr().out)
    assert run("evaluate", held_out, "--against", train, "--extractor", "digits", "--json") == 0
    by_images = json.loads(capsys.readouterr().out)
    assert by_statistics["fid"] == pytest.approx(by_images["fid"], rel=1e-9)
    assert by_statistics["precision"] is None


def test_a_checkpoint_is_sampled_and_measured_in_one_command(model, digits, tmp_path, capsys):
    out = tmp_path / "s.npz"
    assert make(model, out, "--against", str(digits[1]), "--extractor", "digits") == 0
    output = capsys.readouterr()
    assert f"{out}, 20 images, against {digits[1]}, 360 images" in output.out
    assert "FID" in output.out
    assert "warning: the measured set has 20 images" in output.err
    assert make(model, out) == 1
    assert "exists; measure it with himar evaluate" in one_error(capsys)


@pytest.mark.gpu
def test_images_made_on_a_gpu_are_those_of_the_cpu(model, tmp_path):
    assert torch.cuda.is_available()
    for device in ("cpu", "cuda:0"):
        assert make(model, tmp_path / f"{device[:3]}.npz", "--device", device) == 0
    cpu, gpu = (images_of(tmp_path / name)[0].astype(int) for name in ("cpu.npz", "cud.npz"))
    assert np.abs(cpu - gpu).max() <= 2
