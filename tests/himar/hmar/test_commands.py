"""HMAR through the commands of PyTorch: random weights with their tokenizer, and images from both."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from himar.cli import main
from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.sampler import generate
from himar.families.hmar.tokenizer.files import load_tokenizer
from himar.images import to_pixels
from himar_kernels.families.hmar import PhiloxDraws
from tests.closeness import assert_same_pixels
from tests.himar.hmar.tiny_training import SIZES


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    out = tmp_path / "random.safetensors"
    assert run("init", "--config", tmp_path / "sizes.json", "--seed", "3", "--out", out) == 0
    return out


def test_init_writes_a_model_and_its_tokenizer_the_same_for_a_seed(weights, tmp_path, capsys):
    assert run("init", "--config", tmp_path / "sizes.json", "--seed", "3", "--out", tmp_path / "again.safetensors") == 0
    printed = capsys.readouterr().out
    assert "again-vae.safetensors: " in printed
    assert "again.safetensors: " in printed
    for name in ("random", "random-vae"):
        again = (tmp_path / f"{name.replace('random', 'again')}.safetensors").read_bytes()
        assert (tmp_path / f"{name}.safetensors").read_bytes() == again
    model = load_checkpoint(weights)
    assert all(parameter.any() for parameter in model.parameters())
    tokenizer = load_tokenizer(tmp_path / "random-vae.safetensors", model.config)
    assert (tokenizer.stride, tokenizer.config.ch, tokenizer.config.vocab) == (4, 8, 32)


def test_sample_draws_the_images_of_the_sampler(weights, tmp_path):
    out = tmp_path / "grid.png"
    assert run("sample", weights, "--labels", "0,3", "--seed", "5", "--columns", "1", "--out", out) == 0
    model = load_checkpoint(weights)
    tokenizer = load_tokenizer(tmp_path / "random-vae.safetensors", model.config)
    with torch.inference_mode():
        expected = to_pixels(generate(model, tokenizer, [0, 3], draws=PhiloxDraws(5)))
    grid = np.asarray(Image.open(out))
    np.testing.assert_array_equal(grid[:12, :12], expected[0])
    np.testing.assert_array_equal(grid[14:26, :12], expected[1])


def test_a_preset_of_the_family_is_one_for_every_command(capsys, tmp_path):
    assert run("init", "--config", "hmar-d17", "--out", tmp_path / "x.safetensors") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "'hmar-d17' is neither a preset (himar-s, himar-b, " in error
    assert "hmar-d16" in error


def test_settings_are_options_and_another_familys_are_refused(weights, tmp_path, capsys):
    common = ("sample", weights, "--labels", "0", "--out", tmp_path / "one.png")
    assert run(*common, "--top-k", "1", "--schedule", "[]") == 0
    assert run(*common, "--low-steps", "3") == 1
    assert "low_steps is given, but an HMAR model has no such setting" in " ".join(capsys.readouterr().err.split())
    assert run(*common, "--schedule", "[[1], [2, 3]]") == 1
    assert "schedule of scale 1 is [2, 3], which sums to 5, but the scale has 4 cells" in (
        " ".join(capsys.readouterr().err.split())
    )


def test_evaluate_makes_its_images_from_a_checkpoint(weights, tmp_path):
    out = tmp_path / "images.npz"
    assert run("evaluate", weights, "--images", "8", "--chunk", "3", "--guidance", "0.5", "--out", out) == 0
    model = load_checkpoint(weights)
    tokenizer = load_tokenizer(tmp_path / "random-vae.safetensors", model.config)
    sampling = model.config.default_sampling.with_changes(guidance=0.5)
    labels = [i % 4 for i in range(8)]
    with torch.inference_mode():
        expected = to_pixels(generate(model, tokenizer, labels, draws=PhiloxDraws(0), sampling=sampling))
    with np.load(out) as arrays:
        assert_same_pixels(arrays["arr_0"], expected)
