"""Models from text: sizes, checkpoints, and images whose context rows are a text's instead of a class's."""

import json

import numpy as np
import pytest
import torch

from himar.families.hi_mar.checkpoints import load_checkpoint, save_checkpoint
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, initialise, randomise
from himar.families.hi_mar.presets import VARIANTS
from himar.families.hi_mar.sampler import generate
from himar.family import open_model
from himar_kernels import ConfigError, InputError, PhiloxDraws
from tests.closeness import COMPONENT, RUN, assert_near, distance
from tests.himar.small_cache import VAE, run
from tests.himar.tiny_text import SIZES, K, W, build, contexts


def test_himar_s_is_as_large_as_the_model_it_is_to_be_comparable_with():
    with torch.device("meta"):
        model = HiMAR(resolve(read_config("himar-s"), {}))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(59.5e6, rel=0.02)
    assert (model.config.buffer, model.config.context_width, model.config.classes) == (77, 768, 0)
    sampling = model.config.default_sampling
    assert (sampling.low_steps, sampling.high_steps, sampling.guidance_schedule) == (32, 4, "linear")
    assert sampling.low_guidance == sampling.high_guidance == 2.0


def test_a_model_from_text_has_a_projection_and_an_empty_context_in_place_of_classes():
    state = randomise(build(), 0).state_dict()
    assert state["text_proj.weight"].shape == (32, W)
    assert state["empty_context"].shape == (1, K, W)
    assert state["empty_context"].all()
    assert not {"class_emb.weight", "fake_latent"} & state.keys()
    assert not initialise(build(), 0).empty_context.any()


@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_an_image_depends_on_its_seed_and_context(variant):
    model = randomise(build(variant), 0).eval()
    given = contexts(2)
    latents = generate(model, contexts=given, draws=PhiloxDraws(5))
    assert latents.shape == (2, 4, 4, 4)
    assert torch.isfinite(latents).all()
    again = generate(model, contexts=given[1:], draws=PhiloxDraws(5), first_index=1)
    assert_near(again, latents[1:], RUN)
    other = generate(model, contexts=contexts(1, seed=9), draws=PhiloxDraws(5), first_index=1)
    assert distance(other, latents[1:]) > 10 * RUN


def test_every_row_of_a_context_reaches_the_image():
    model = randomise(build(), 0).eval()
    known, tokens = torch.tensor([[True, False, False, True]]), torch.zeros(1, 4, 4)
    given = contexts(1)
    z = model.transformer_low(given, tokens, known)
    for row in range(K):
        changed = given.clone()
        changed[0, row] += 1
        assert distance(model.transformer_low(changed, tokens, known), z) > 10 * COMPONENT


def test_guidance_moves_away_from_the_empty_context():
    model = randomise(build(), 0).eval()
    free = model.config.default_sampling.with_changes(low_guidance=1.0, high_guidance=1.0)
    empty = model.empty_context.clone()
    guided = generate(model, contexts=empty, draws=PhiloxDraws(1))
    assert_near(guided, generate(model, contexts=empty, draws=PhiloxDraws(1), sampling=free), RUN)
    before = generate(model, contexts=contexts(1), draws=PhiloxDraws(1))
    model.empty_context += 1
    assert distance(generate(model, contexts=contexts(1), draws=PhiloxDraws(1)), before) > 10 * RUN


def test_context_rows_are_those_of_a_class_model_with_the_same_rows():
    """Everything behind the context rows is the model of classes."""
    values = {name: value for name, value in SIZES.items() if not name.startswith("context")}
    plain = randomise(HiMAR(resolve(read_config({**values, "classes": 3}), {})), 0).eval()
    model = build().eval()
    state = plain.state_dict()
    del state["fake_latent"]
    row = state.pop("class_emb.weight")[1]
    own = {"text_proj.weight": torch.diag(row)[:, :W], "text_proj.bias": torch.cat([torch.zeros(W), row[W:]])}
    model.load_state_dict({**state, **own, "empty_context": torch.zeros(1, K, W)})
    known, tokens = torch.tensor([[True, False, False, True]]), torch.randn(1, 4, 4)
    wanted = plain.transformer_low(torch.tensor([1]), tokens, known)
    assert_near(model.transformer_low(torch.ones(1, K, W), tokens, known), wanted, COMPONENT)


@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_a_checkpoint_is_read_back_from_its_names_and_shapes(variant, tmp_path):
    model = randomise(build(variant), 0).eval()
    save_checkpoint(model, tmp_path / "ours.safetensors")
    ours, _ = open_model(tmp_path / "ours.safetensors")
    assert ours.config == model.config
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model": wrapped, "model_ema": wrapped, "epoch": 1}, tmp_path / "theirs.pth")
    given = {"heads": 2, "dit_heads": 2, "vae_stride": 4, "vae_scale": 0.95, "sampling": SIZES["sampling"]}
    theirs = load_checkpoint(tmp_path / "theirs.pth", given)
    for name in ("context", "context_width", "classes", "buffer", "width", "pivots", "high_head", "scale_vector"):
        assert getattr(theirs.config, name) == getattr(model.config, name)
    assert all(value.equal(theirs.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_configuration_of_classes_does_not_fit_weights_from_text(tmp_path):
    save_checkpoint(randomise(build(), 0), tmp_path / "text.safetensors")
    with pytest.raises(ConfigError, match="context = class, but the checkpoint's shapes say text"):
        load_checkpoint(tmp_path / "text.safetensors", {"context": "class"})
    with pytest.raises(ConfigError, match="context_width = 9, but the checkpoint's shapes say 12"):
        load_checkpoint(tmp_path / "text.safetensors", {"context_width": 9})


def test_a_model_of_classes_does_not_name_its_context():
    assert not {"context", "context_width"} & resolve(read_config("digits"), {}).to_dict().keys()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"context": "image"}, "context is 'image'; it must be one of 'class', 'text'"),
        ({"classes": 10}, "classes is 10, but a model with context 'text' has none; leave it out"),
        ({"context_width": 0}, "context_width is 0, but the model's context is a text"),
        ({"context_width": -1}, "context_width is -1; it must be a whole number"),
        ({"context": "class", "classes": 3}, "context_width is 12, but the model's context is a class"),
        ({"context": "class", "classes": 0}, "classes is 0; it must be a whole number of at least 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        resolve(read_config({**SIZES, **changes}), {})


def test_what_shapes_cannot_tell_is_asked_for():
    values = {name: value for name, value in SIZES.items() if name != "context_width"}
    with pytest.raises(ConfigError, match="lacks context_width"):
        resolve(read_config(values), {})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"labels": [1]}, "labels were given, but this model makes images from text; give contexts"),
        ({}, "neither labels nor contexts were given; give contexts"),
        ({"labels": [1], "contexts": contexts(1)}, "labels and contexts were both given; give contexts"),
        ({"contexts": contexts(1)[:, :4]}, r"contexts have shape \(1, 4, 12\); this model takes \(images, 5, 12\)"),
        ({"contexts": contexts(1)[0]}, r"contexts have shape \(5, 12\)"),
        ({"contexts": contexts(0)}, r"contexts have shape \(0, 5, 12\).*at least one"),
        ({"contexts": contexts(1).long()}, "contexts are int64; give floats, not token ids"),
        ({"contexts": contexts(3).log()}, "context 0 holds values that are not finite"),
    ],
)
def test_what_a_model_from_text_does_not_take_is_refused(given, text):
    with pytest.raises(InputError, match=text):
        generate(randomise(build(), 0), **given, draws=PhiloxDraws(0))


def test_a_model_of_classes_takes_no_contexts():
    model = randomise(HiMAR(resolve(read_config("digits"), {})), 0)
    with pytest.raises(InputError, match="contexts were given, but this model makes images of classes; give labels"):
        generate(model, contexts=contexts(1), draws=PhiloxDraws(0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model as `himar init` writes it, with the digits' VAE beside it."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "tiny.json").write_text(json.dumps(SIZES))
    assert run("init", "--config", folder / "tiny.json", "--out", folder / "tiny.safetensors") == 0
    (folder / "tiny-vae.safetensors").symlink_to(VAE)
    return folder / "tiny.safetensors"


def test_the_command_samples_from_contexts(checkpoint, tmp_path, capsys):
    np.savez(tmp_path / "two.npz", contexts=contexts(2).numpy())
    out = tmp_path / "two.png"
    assert run("sample", checkpoint, "--contexts", tmp_path / "two.npz", "--seed", 3, "--out", out) == 0
    assert "2 images" in capsys.readouterr().out
    np.savez(tmp_path / "half.npz", contexts=contexts(2).half().float().numpy())
    assert run("sample", checkpoint, "--contexts", tmp_path / "half.npz", "--seed", 3, "--out", tmp_path / "h.png") == 0


@pytest.mark.parametrize(
    ("name", "arrays", "text"),
    [
        ("missing.npz", None, "does not exist"),
        ("other.npz", {"context": np.zeros((1, K, W))}, "no array 'contexts' but context"),
        ("ids.npz", {"contexts": np.zeros((1, K), np.int64)}, "contexts are int64; give floats"),
        ("narrow.npz", {"contexts": np.zeros((1, K, 3), np.float32)}, "contexts have shape (1, 5, 3)"),
    ],
)
def test_the_command_refuses_files_without_contexts(checkpoint, tmp_path, capsys, name, arrays, text):
    if arrays is not None:
        np.savez(tmp_path / name, **arrays)
    out = tmp_path / "out.png"
    assert run("sample", checkpoint, "--contexts", tmp_path / name, "--out", out) == 1
    assert text in capsys.readouterr().err
    assert not out.exists()


def test_the_command_takes_labels_or_contexts(checkpoint, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert run("sample", checkpoint, "--out", out) == 2
    assert "--labels, --prompt and --contexts" in capsys.readouterr().err
    assert run("sample", checkpoint, "--labels", "1", "--out", out) == 1
    assert "this model makes images from text" in capsys.readouterr().err
