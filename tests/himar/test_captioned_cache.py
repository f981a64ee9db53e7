"""Captions and their images become a cache that training from text reads; what does not fit together is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from himar import save_checkpoint
from himar.data.cache import CacheSettings
from himar.data.cache_index import CacheError
from himar.data.cache_reader import CachedLatents
from himar.data.captioned.cache import CachedCaptioned, cache_captioned
from himar.data.captions import read_captions
from himar.data.crop import read_square
from himar.families.hi_mar.model import randomise
from himar.text.encoder import TextEncoder
from himar.vae.layouts import load_vae
from himar.vae.training import latent_moments
from himar_kernels import ConfigError, InputError
from tests.closeness import COMPONENT, assert_near, distance
from tests.himar.small_cache import VAE, contents, run
from tests.himar.small_captions import ANNOTATIONS, write_captions, write_images
from tests.himar.tiny_text import SIZES, K, W, build, write_text_folder

SETTINGS = CacheSettings(img_size=16, dtype="float32", shard_size=2, batch=2, readers=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny COCO: train2014, captions.json, and the folder `text` of a tower."""
    root = tmp_path_factory.mktemp("coco")
    write_images(root / "train2014")
    write_captions(root / "captions.json")
    write_text_folder(root / "text")
    return root


def listed(folder):
    return read_captions(folder / "captions.json", folder / "train2014")


@pytest.fixture(scope="module")
def cache(folder):
    cache_captioned(listed(folder), VAE, folder / "text", folder / "cache", SETTINGS)
    return folder / "cache"


def test_the_crop_is_the_middle_square_by_lanczos(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    square = Image.fromarray(pixels[:, 10:50]).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(read_square(tmp_path / "wide.png", 16).pixels, np.asarray(square))


def test_a_cache_holds_latents_and_the_contexts_of_all_captions(folder, cache):
    data = CachedCaptioned(cache, img_size=16)
    encoder = TextEncoder.open(folder / "text")
    assert data.high_shape == (3, 2, 4, 4, 4) and data.low_shape == (3, 2, 4, 2, 2)
    assert data.first.tolist() == [0, 2, 3, 6]
    captions = [caption for each in listed(folder).captions for caption in each]
    assert_near(data.contexts(torch.arange(6)), encoder.encode(captions)[0], COMPONENT)
    assert_near(data.empty_text, encoder.encode([""])[0][0], COMPONENT)
    assert data.examples(4)[3].equal(data.examples(1)[0])
    pixels = torch.from_numpy(read_square(folder / "train2014" / "b.png", 16).pixels.copy())[None]
    moments = latent_moments(load_vae(VAE), pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    stored = load_file(cache / "captioned-00000.safetensors")
    assert_near(stored["high"][1, 0], moments[0], 1e-5)


def test_a_draw_is_the_latents_of_an_image_and_one_of_its_contexts(cache):
    data = CachedCaptioned(cache)
    tokens, low_tokens, texts = data.draw(torch.tensor([2, 0, 2]), 1.0, torch.Generator().manual_seed(3))
    assert tokens.shape == (3, 16, 4) and low_tokens.shape == (3, 4, 4) and texts.dtype == torch.float32
    for image, text in zip((2, 0, 2), texts, strict=True):
        own = data.contexts(torch.arange(int(data.first[image]), int(data.first[image + 1])))
        assert any(text.equal(each) for each in own)


def test_a_stopped_run_continues_and_leaves_the_same_files(folder, cache, tmp_path):
    def stop(done: int, all_images: int) -> None:
        raise RuntimeError("stopped")

    seen = []

    def stop_late(done: int, all_images: int) -> None:
        seen.append(done)
        if done > 2:
            raise RuntimeError("stopped")

    images, out = listed(folder), tmp_path / "cache"
    for callback in (stop, stop_late):
        with pytest.raises(RuntimeError, match="stopped"):
            cache_captioned(images, VAE, folder / "text", out, SETTINGS, callback)
    cache_captioned(images, VAE, folder / "text", out, SETTINGS)
    assert contents(out) == contents(cache)


def test_float16_rounds_each_context_by_at_most_one_part_in_2048(folder, cache, tmp_path):
    settings = CacheSettings(img_size=16, shard_size=2, batch=2, readers=2)
    cache_captioned(listed(folder), VAE, folder / "text", tmp_path / "half", settings)
    exact, half = (CachedCaptioned(path).contexts(torch.arange(6)) for path in (cache, tmp_path / "half"))
    assert ((half - exact).abs() <= exact.abs() / 2048 + 2**-25).all()
    model = randomise(build(), 0).eval()
    assert 0 < distance(model.context(half), model.context(exact)) < 1e-3
    assert CachedCaptioned(tmp_path / "half").empty_text.equal(CachedCaptioned(cache).empty_text)


def test_the_commands_cache_check_and_train(folder, tmp_path, capsys):
    out, config = tmp_path / "cache", tmp_path / "tiny.json"
    config.write_text(json.dumps(SIZES))
    make = ("cache-latents", folder / "train2014", "--captions", folder / "captions.json", "--text", folder / "text")
    assert run(*make, "--vae", VAE, "--img-size", 16, "--out", out) == 0
    assert "3 images with captions in 1 shards" in capsys.readouterr().out
    assert run("cache-latents", "--out", out, "--check", "--json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["complete"] and outcome["context"] == [K, W]
    train = ("train", "--config", config, "--data", out, "--vae", VAE, "--out", tmp_path / "run", "--batch", 2)
    assert run(*train, "--steps", 2) == 0
    told = capsys.readouterr()
    assert "3 images with 6 captions" in told.err
    png = tmp_path / "three.png"
    sample = ("sample", tmp_path / "run" / "model.safetensors", "--vae", VAE, "--out", png)
    long = "a very long text " * 9
    assert run(*sample, "--text", folder / "text", "--prompt", "a red three", "--prompt", long) == 0
    told = capsys.readouterr().err
    assert f"prompt 1 has more than {K} tokens" in told and "warning" not in told
    assert png.exists()
    other = tmp_path / "other.safetensors"
    save_checkpoint(randomise(build(), 0), other)
    assert run("sample", other, *sample[2:], "--text", folder / "text", "--prompt", "a red three") == 0
    assert "away from the model's own; the model was trained with another tower" in capsys.readouterr().err


def test_captions_that_are_cut_are_told(folder, tmp_path):
    told = []
    cache_captioned(listed(folder), VAE, folder / "text", tmp_path / "cache", SETTINGS, on_notice=told.append)
    assert told == [f"6 captions have more than {K} tokens; what is beyond them is cut"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width": 16}, r"gives 5 rows of 16, but this model takes 5 of 12; give the tower"),
        ({"length": 7}, r"gives 7 rows of 12, but this model takes 5 of 12"),
        ({"tokens": 1}, r"has 520 tokens and its text tower 521; take both from one model"),
    ],
)
def test_a_tower_of_another_model_is_refused(tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        TextEncoder.open(write_text_folder(tmp_path, **changes)).require_fit(build().config)


def test_a_tokenizer_of_another_length_is_refused(tmp_path):
    folder = write_text_folder(tmp_path)
    for name, change in (("tokenizer_config.json", {"model_max_length": 9}), ("config.json", {})):
        values = json.loads((folder / name).read_text())
        values.pop("max_position_embeddings", None)
        (folder / name).write_text(json.dumps({**values, **change}))
    with pytest.raises(ConfigError, match="makes rows of 9 tokens and its text tower takes 5"):
        TextEncoder.open(folder)


def test_a_caption_with_an_end_token_is_refused_before_anything_is_written(folder, tmp_path):
    images = replace(listed(folder), captions=(("a <|endoftext|> b",),) * 3)  # a captions file is refused when read
    with pytest.raises(InputError, match=r"holds <\|endoftext\|>"):
        cache_captioned(images, VAE, folder / "text", tmp_path / "cache", SETTINGS)
    assert not (tmp_path / "cache").exists()


def test_caches_of_other_captions_towers_and_kinds_are_refused(folder, cache, tmp_path):
    fewer = write_captions(tmp_path / "fewer.json", annotations=ANNOTATIONS["annotations"][:3])
    with pytest.raises(CacheError, match="was made from other images"):
        cache_captioned(read_captions(fewer, folder / "train2014"), VAE, folder / "text", cache, SETTINGS)
    other = write_text_folder(tmp_path / "text", merges=5)
    with pytest.raises(CacheError, match="was made with text sha256"):
        cache_captioned(listed(folder), VAE, other, cache, SETTINGS)
    with pytest.raises(CacheError, match="latents of a KL VAE with contexts of captions"):
        CachedLatents(cache)


def test_a_damaged_shard_is_refused(cache, tmp_path):
    from safetensors.torch import save_file

    out = tmp_path / "cache"
    out.mkdir()
    for name, data in contents(cache).items():
        (out / name).write_bytes(data)
    path = out / "captioned-00000.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "contexts": tensors["contexts"][:2]}, path)
    with pytest.raises(CacheError, match=r"contexts are F32 of shape \(2, 5, 12\), but the index requires"):
        CachedCaptioned(out)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--captions", "captions.json"], 2, "--captions and --text go together"),
        (["--text", "text"], 2, "--captions and --text go together"),
        (["--captions", "no.json", "--text", "text"], 1, "cannot be read"),
        (["--captions", "captions.json", "--text", "train2014"], 1, "train2014"),
    ],
)
def test_the_command_refuses_what_is_wrong(folder, tmp_path, capsys, monkeypatch, arguments, code, text):
    monkeypatch.chdir(folder)
    out = tmp_path / "out"
    assert run("cache-latents", "train2014", "--vae", VAE, "--img-size", 16, "--out", out, *arguments) == code
    assert text in capsys.readouterr().err
    assert not out.exists()


def test_a_model_from_text_does_not_train_on_images_without_captions(folder, tmp_path, capsys):
    (tmp_path / "tiny.json").write_text(json.dumps(SIZES))
    train = ("train", "--config", tmp_path / "tiny.json", "--data", folder / "train2014", "--out", tmp_path / "run")
    assert run(*train, "--vae", VAE) == 1
    assert "make them with himar cache-latents --captions" in capsys.readouterr().err


def test_prompts_need_a_model_from_text(folder, tmp_path, capsys):
    model = VAE.with_name("digits.safetensors")
    out = tmp_path / "out.png"
    assert run("sample", model, "--prompt", "a three", "--text", folder / "text", "--out", out) == 1
    assert "this model makes images of classes; give --labels" in capsys.readouterr().err
    assert run("sample", model, "--prompt", "a three", "--out", out) == 2
    assert "--prompt and --text go together" in capsys.readouterr().err
