"""Bundles from text through the commands: build, verify, record, refit, inspect; images are the eager sampler's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from himar import load_checkpoint, save_checkpoint
from himar.families.hi_mar.sampler import generate
from himar.text import encode, load_text_tower
from himar_export.cli import main
from himar_kernels import PhiloxDraws
from himar_kernels.text import Tokenizer
from himar_runtime import Bundle, Device, Pipeline, load_engine
from tests.closeness import COMPONENT, RUN, assert_near, distance
from tests.himar import tiny_text

PROMPTS = ["two red", "red", "", "a much longer text", "red"]


def run(capsys, *arguments, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else " ".join(printed.err.split())


@pytest.fixture(scope="module")
def eager(text_checkpoint):
    """Contexts of PROMPTS, and the eager sampler's latents of them."""
    folder = text_checkpoint.with_name("clip")
    tokens, _ = Tokenizer.open(folder).ids(PROMPTS)
    contexts = encode(load_text_tower(folder), tokens)
    model = load_checkpoint(text_checkpoint)
    return contexts.numpy(), generate(model, contexts=contexts, draws=PhiloxDraws(4)).numpy()


def test_images_of_prompts_and_of_contexts_are_the_eager_samplers(text_bundle, eager):
    pipeline, (contexts, latents) = Pipeline.load(text_bundle), eager
    assert pipeline.bundle.manifest.max_batch < len(PROMPTS)  # so they are made in chunks
    result = pipeline.generate(prompts=PROMPTS, seed=4)
    assert_near(result.latents, latents, RUN)
    assert_near(pipeline.generate(contexts=contexts, seed=4).latents, latents, RUN)
    assert_near(pipeline.generate(prompts=PROMPTS[3:], seed=4, first_index=3).latents, latents[3:], RUN)
    assert result.images.shape == (5, 16, 16, 3)
    assert result.truncated == (3,)
    assert np.linalg.norm(latents[0] - latents[1]) > 1e-3 * np.linalg.norm(latents)


def test_the_tower_is_the_eager_one_at_any_batch(text_bundle, eager):
    bundle = Bundle.open(text_bundle)
    tokens, _ = Tokenizer.open(text_bundle).ids(PROMPTS)
    engine = load_engine(bundle, "text_encoder", Device("cpu"), 1)
    for part in (slice(0, 3), slice(1, 2), slice(4, 5)):
        assert_near(engine.run({"tokens": tokens[part]})["context"], eager[0][part], COMPONENT)


def test_verify_covers_every_component_and_inspect_names_them(text_bundle, capsys):
    rows = json.loads(run(capsys, "verify", text_bundle, "--json"))["comparisons"]
    names = {row["name"].split(":")[0] for row in rows}
    assert {"transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder", "text_encoder"} <= names
    assert all(row["relative_l2"] <= row["limit"] for row in rows)
    text = run(capsys, "inspect", text_bundle)
    assert f"from text, contexts of {tiny_text.K} rows of {tiny_text.W}" in text
    assert "text_encoder" in text and "tokenizer/merges.txt" in text
    manifest = json.loads((text_bundle / "manifest.json").read_text())
    assert (manifest["schema_version"], manifest["model"]["classes"]) == ("4.0", 0)
    assert manifest["components"]["transformer_low"]["inputs"][0] == {
        "name": "context", "dtype": "float32", "shape": ["rows", tiny_text.K, tiny_text.W]
    }  # fmt: skip


@pytest.mark.parametrize("how", ["contexts", "prompts"])
def test_a_recording_replays_through_its_bundle_and_no_other(
    text_checkpoint, text_bundle, narrow_128_bundle, tmp_path, capsys, eager, how
):
    np.savez(tmp_path / "contexts.npz", contexts=eager[0])
    prompts = [option for prompt in PROMPTS for option in ("--prompt", prompt)]
    given = {
        "contexts": ("--contexts", tmp_path / "contexts.npz"),
        "prompts": (*prompts, "--text", text_checkpoint.with_name("clip")),
    }[how]
    out = tmp_path / "run.npz"
    run(capsys, "record", text_checkpoint, *given, "--seed", 4, "--out", out)
    rows = json.loads(run(capsys, "verify", text_bundle, "--recording", out, "--json"))["comparisons"]
    assert all(row["relative_l2"] <= RUN for row in rows)
    with np.load(out) as arrays:
        assert_near(arrays["run/contexts"], eager[0], COMPONENT)
        assert_near(arrays["run/latent"] / np.float32(tiny_text.SIZES["vae_scale"]), eager[1], RUN)
    if how == "contexts":
        assert "it has no t/labels" in run(capsys, "verify", narrow_128_bundle, "--recording", out, code=1)


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--labels", "1"], 1, "makes images from texts; give --contexts, or --prompt with --text"),
        (["--prompt", "red"], 2, "give one of --labels, --contexts, and --prompt or --prompts-file with --text"),
        ([], 2, "give one of --labels, --contexts, and --prompt"),
    ],
)
def test_record_says_what_it_takes(text_checkpoint, tmp_path, capsys, options, code, sentence):
    command = ["record", text_checkpoint, *options, "--out", tmp_path / "run.npz"]
    assert sentence in run(capsys, *command, code=code)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["--fp16", "--bf16", "--int8"])
def test_other_precisions_build_and_match(text_checkpoint, tmp_path, capsys, precision):
    """Latents alone, and contexts alone: build verifies every component and a whole run."""
    out = tmp_path / "bundle"
    run(capsys, "build", text_checkpoint, precision, "--max-batch", 2, "--out", out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert {row["passed"] for row in manifest["verification"]} <= {True, None}
    assert {entry["precision"] for entry in manifest["components"].values()} == {precision[2:]}
    if precision == "--bf16":
        return
    contexts = np.random.default_rng(0).standard_normal((2, tiny_text.K, tiny_text.W)).astype(np.float32)
    assert np.isfinite(Pipeline.load(out).generate(contexts=contexts, seed=1).latents).all()


@pytest.mark.slow
def test_refit_takes_other_weights_with_the_tower(text_checkpoint, text_bundle, tmp_path, capsys):
    model = load_checkpoint(text_checkpoint)
    with torch.no_grad():
        model.text_proj.weight *= -8
    save_checkpoint(model, tmp_path / "other.safetensors")
    vae = Path(__file__).parents[2] / "himar" / "himar" / "weights" / "digits-vae.safetensors"
    command = ["refit", text_bundle, tmp_path / "other.safetensors", "--vae", vae, "--out", tmp_path / "refitted"]
    run(capsys, *command, "--text", text_checkpoint.with_name("clip"))
    before, after = (
        Pipeline.load(each).generate(prompts=["red"], seed=1) for each in (text_bundle, tmp_path / "refitted")
    )
    assert distance(after.latents, before.latents) > 1e-4
