"""HMAR through the commands: its settings as options, recordings, latents, and other weights in the same bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from himar.family import model_family
from himar_export.cli import main
from himar_runtime import Pipeline, read_recipes

SIZES = {
    "patch_nums": [1, 2, 3],
    "width": 16,
    "depth": 1,
    "heads": 2,
    "tail": 1,
    "classes": 4,
    "vocab": 32,
    "latent_channels": 4,
    "vae_ch": 8,
    "vae_groups": 4,
    "vae_stride": 2,
    "masked": False,
    "sampling": {"default": {"guidance": 1.5, "top_k": 8, "top_p": 0.9}},
}


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert run(*arguments) == 1
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights 1 and 2 with their tokenizers, and a bundle of 1."""
    folder = tmp_path_factory.mktemp("hmar")
    (folder / "sizes.json").write_text(json.dumps(SIZES))
    family = model_family("hmar")
    for seed in (1, 2):
        model, tokenizer = family.random(folder / "sizes.json", seed)
        family.save(folder / f"{seed}.safetensors", model, torch.float32)
        family.save(folder / f"{seed}-vae.safetensors", tokenizer, torch.float32)
    assert run("build", *weights(folder, 1), "--max-batch", 3, "--out", folder / "bundle", "--json") == 0
    return folder


def weights(folder: Path, seed: int) -> tuple[object, ...]:
    return folder / f"{seed}.safetensors", "--vae", folder / f"{seed}-vae.safetensors"


def test_settings_are_options(folder, tmp_path):
    out = tmp_path / "one.png"
    settings = ["--guidance", "0.5", "--top-k", "3", "--top-p", "0.5", "--all-scales", "--schedule", "[]"]
    assert run("generate", folder / "bundle", "--labels", "2", *settings[:6], *settings[7:], "--out", out) == 0
    (recipe,) = read_recipes(out)
    asked = {name: recipe.sampling.to_dict()[name] for name in ("guidance", "top_k", "top_p", "schedule", "all_scales")}
    assert asked == {"guidance": 0.5, "top_k": 3, "top_p": 0.5, "schedule": [], "all_scales": False}


def test_latents_come_with_their_codes(folder, tmp_path):
    out = tmp_path / "latents.npz"
    assert run("generate", folder / "bundle", "--labels", "0,1", "--seed", "4", "--out", out) == 0
    result = Pipeline.load(folder / "bundle").generate([0, 1], seed=4)
    with np.load(out) as arrays:
        assert arrays["latents"].shape == (2, 4, 3, 3)
        np.testing.assert_array_equal(arrays["codes"], result.arrays["codes"])


def test_masked_steps_of_a_model_without_their_network_are_refused(folder, capsys, tmp_path):
    arguments = ("generate", folder / "bundle", "--labels", "0", "--schedule", "[[1], [1, 3]]", "--out", tmp_path / "x")
    assert "schedule has masked steps, but this model has the next-scale network alone" in refused(capsys, *arguments)


def test_a_recorded_run_is_replayed(folder, capsys, tmp_path):
    out = tmp_path / "run.npz"
    arguments = ("--labels", "1,3", "--seed", "9", "--top-k", "5", "--case", "five")
    assert run("record", *weights(folder, 1), *arguments, "--out", out) == 0
    assert run("verify", folder / "bundle", "--recording", out, "--case", "five", "--json") == 0
    printed = capsys.readouterr().out
    outputs = {each["name"]: each for each in json.loads(printed[printed.index("{") :])["comparisons"]}
    assert outputs["run five: codes"]["max_abs"] == 0


def test_a_recording_needs_the_tokenizer(folder, capsys, tmp_path):
    message = refused(capsys, "record", folder / "1.safetensors", "--labels", "0", "--out", tmp_path / "x.npz")
    assert "HMAR needs the tokenizer whose codes the model predicts; give it with --vae." in message


def test_a_refitted_bundle_is_a_fresh_build_bit_for_bit(folder, tmp_path):
    new = tmp_path / "new"
    assert run("refit", folder / "bundle", *weights(folder, 2), "--out", new, "--json") == 0
    assert run("refit", new, *weights(folder, 1), "--out", tmp_path / "back", "--json") == 0
    names = ("bundle", "new", "back")
    first, other, back = (
        json.loads(((folder if name == "bundle" else tmp_path) / name / "manifest.json").read_text()) for name in names
    )
    assert back["files"] == first["files"]
    assert other["files"]["weights.bin"] != first["files"]["weights.bin"]
    for key in ("model", "sampling", "max_batch", "backend", "components"):
        assert back[key] == first[key]


def test_a_checkpoint_of_another_family_does_not_refit(folder, capsys, tmp_path):
    digits = Path(__file__).parents[2] / "himar" / "himar" / "weights" / "digits.safetensors"
    arguments = ("refit", folder / "bundle", digits, *weights(folder, 1)[1:], "--out", tmp_path / "new")
    message = refused(capsys, *arguments)
    assert "digits.safetensors is no HMAR model: its parameters are those of Hi-MAR" in message
    assert not (tmp_path / "new").exists()
