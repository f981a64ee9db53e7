"""The himar command: what users type, what comes out, and how wrong input is answered."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import himar.families.hi_mar.digits
import himar.families.hi_mar.training
from himar.cli import cli, main
from himar.data.digits import Digits, load_digits_split
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.digits import MODEL_FILE, VAE_FILE, Recipe
from himar.training.optimise import Schedule
from himar.training.state import STATE_FILE
from himar.vae.autoencoder import VaeConfig
from himar.vae.training import VaeTraining

TINY = {
    "width": 32, "enc_depth": 1, "dec_depth": 1, "heads": 2, "classes": 10, "buffer": 2, "cond_scale": 4,
    "img_size": 32, "vae_stride": 4, "channels": 4, "mlp_depth": 1, "mlp_width": 32, "dit_depth": 1,
    "dit_width": 32, "dit_heads": 2,
    "sampling": {
        "low_steps": 2, "high_steps": 2, "low_diffusion_steps": 2, "high_diffusion_steps": 2,
        "low_guidance": 1.5, "high_guidance": 1.5,
    },
}  # fmt: skip
SMALL_VAE = VaeTraining(
    config=VaeConfig(ch=32, ch_mult=(1, 1, 1), z_channels=4, num_res_blocks=1, attention_levels=()),
    schedule=Schedule(steps=1, peak=1e-3),
    batch=2,
    kl_weight=1e-3,
)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.fixture
def trained(tmp_path, config, monkeypatch, capsys) -> Path:
    train, held_out = load_digits_split()
    few = Digits(train.images[:12], train.labels[:12])
    monkeypatch.setattr(himar.families.hi_mar.digits, "load_digits_split", lambda: (few, held_out))
    monkeypatch.setattr(himar.families.hi_mar.training, "Recipe", lambda seed: Recipe(vae=SMALL_VAE, seed=seed))
    out = tmp_path / "trained"
    train_arguments = ("--config", config, "--data", "digits", "--out", out, "--steps", "2", "--batch", "3")
    assert run("train", *train_arguments) == 0
    assert str(out / MODEL_FILE) in capsys.readouterr().out
    return out


def test_train_then_sample_gives_a_picture_that_a_seed_repeats(trained, tmp_path):
    assert sorted(path.name for path in trained.iterdir()) == sorted([VAE_FILE, MODEL_FILE, STATE_FILE])
    pictures = []
    for name, seed in (("a.png", 3), ("b.png", 3), ("c.png", 4)):
        out = tmp_path / name
        sample = ("sample", trained / MODEL_FILE, "--labels", "0,7-9", "--columns", "3", "--seed", str(seed))
        assert run(*sample, "--out", out) == 0
        pictures.append(np.asarray(Image.open(out)))
    assert pictures[0].shape == (66, 100, 3)
    assert (pictures[0][34:, 34:] == 255).all()  # the second row holds one image
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_guidance_changes_the_picture(trained, tmp_path):
    pictures = []
    for guidance in ("1", "4"):
        out = tmp_path / f"{guidance}.png"
        assert run("sample", trained / MODEL_FILE, "--labels", "5", "--guidance", guidance, "--out", out) == 0
        pictures.append(np.asarray(Image.open(out)))
    assert not np.array_equal(*pictures)


def test_solvers_and_named_settings_change_the_picture(trained, tmp_path, capsys):
    sample, pictures = ("sample", trained / MODEL_FILE, "--labels", "5", "--out"), []
    solvers = ("--low-solver", "ddim", "--high-solver", "dpm++")
    for name, options in (("a.png", ()), ("b.png", solvers), ("c.png", ("--sampling", "default"))):
        assert run(*sample, tmp_path / name, *options) == 0
        pictures.append(np.asarray(Image.open(tmp_path / name)))
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])
    capsys.readouterr()
    assert run(*sample, tmp_path / "x.png", *solvers, "--temperature", "0.5") == 1
    assert "temperature is 0.5, but it scales the noise" in one_error(capsys)
    assert run(*sample, tmp_path / "x.png", "--sampling", "slow") == 1
    assert "sampling 'slow' is not in this model; it has default." in one_error(capsys)
    assert run(*sample, tmp_path / "x.png", "--low-solver", "euler") == 2


def test_init_writes_weights_that_load(tmp_path, config, capsys):
    out = tmp_path / "random.safetensors"
    assert run("init", "--config", config, "--seed", "1", "--half", "--out", out) == 0
    assert "M parameters" in capsys.readouterr().out
    model = load_checkpoint(out)
    assert model.config.width == 32
    assert all(parameter.any() for parameter in model.parameters())
    full = tmp_path / "full.safetensors"
    assert run("init", "--config", config, "--out", full) == 0
    assert full.stat().st_size > 1.8 * out.stat().st_size


@pytest.mark.parametrize("labels", ["", "x", "3-", "9-5", "1,,2"])
def test_labels_that_make_no_sense_are_wrong_usage(trained, tmp_path, labels, capsys):
    out = tmp_path / "x.png"
    assert run("sample", trained / MODEL_FILE, "--labels", labels, "--out", out) == 2
    assert "--labels" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", ["photo.jpg", "photo.JPEG", "photo.webp", "photo", "photo.png.tif"])
def test_a_sample_is_a_png_and_named_so(tmp_path, name, capsys):
    assert run("sample", "absent.safetensors", "--labels", "1", "--out", tmp_path / name) == 2
    assert f"{name} does not end in .png" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def one_error(capsys) -> str:
    text = capsys.readouterr().err.strip()
    assert text.startswith("error: ")
    assert text.count("\n") <= 1
    return text


def test_failures_are_one_sentence_and_leave_nothing(trained, tmp_path, capsys):
    out = tmp_path / "x.png"
    model = trained / MODEL_FILE
    assert run("sample", model, "--labels", "10", "--out", out) == 1
    assert "label 10 (number 0 of the list) is not a class" in one_error(capsys)
    assert run("sample", trained / VAE_FILE, "--vae", trained / VAE_FILE, "--labels", "1", "--out", out) == 1
    assert "not a Hi-MAR checkpoint" in one_error(capsys)
    assert run("sample", model, "--vae", model, "--labels", "1", "--out", out) == 1
    assert "not a KL VAE" in one_error(capsys)
    assert run("sample", model, "--labels", "1", "--out", tmp_path / "absent" / "x.png") == 1
    assert "cannot be written" in one_error(capsys)
    assert run("train", "--config", "himar-b", "--data", "digits", "--out", tmp_path / "b") == 1
    assert "img_size is 256" in one_error(capsys)
    assert run("sample", tmp_path / "absent.safetensors", "--labels", "1", "--out", out) == 1
    assert "absent.safetensors does not exist" in one_error(capsys)
    assert not out.exists()
    assert not (tmp_path / "b").exists()


def test_a_vae_of_other_sizes_is_refused(trained, tmp_path, capsys):
    other = Path(__file__).parents[1] / "golden" / "vae-narrow.ckpt"
    assert run("sample", trained / MODEL_FILE, "--vae", other, "--labels", "1", "--out", tmp_path / "x.png") == 1
    assert "latents of 16 channels" in one_error(capsys)


def test_debug_lets_the_traceback_through(trained, tmp_path):
    with pytest.raises(Exception, match="is not a class of this model"):
        main(["--debug", "sample", str(trained / MODEL_FILE), "--labels", "10", "--out", str(tmp_path / "x.png")])


@pytest.mark.parametrize("verb", sorted(cli.verbs))
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    assert run(verb, "--help") == 0
    assert f"Example: himar {verb} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["paint"],
        ["train", "--config", "digits", "--data", "cats", "--out", "x"],
        ["train", "--config", "digits", "--data", "digits", "--out", "x", "--steps", "0"],
        ["init", "--config", "digits", "--out", "weights.pth"],
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    assert run(*arguments) == 2
