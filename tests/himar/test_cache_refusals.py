"""What cannot be cached, and caches that are not what a training asks for: refused by name, nothing left behind."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from himar.data.cache import cache_latents
from himar.data.cache_index import CacheError, damaged_shards, read_index
from himar.data.cache_reader import CachedLatents
from himar.data.folder import list_images
from himar.loading.files import read_state, write_safetensors
from himar_kernels import ConfigError, InputError
from himar_kernels.shared.files import file_sha256
from tests.himar.small_cache import NARROW, SETTINGS, VAE, contents, run


@pytest.mark.parametrize(
    ("change", "named"),
    [({"img_size": 64}, "img size 32, not 64"), ({"dtype": "float16"}, "dtype"), ({"shard_size": 4}, "shard size")],
)
def test_a_cache_of_something_else_is_refused(folder, cache, change, named):
    before = contents(cache)
    with pytest.raises(CacheError, match=named):
        cache_latents(list_images(folder), VAE, cache, replace(SETTINGS, **change))
    assert contents(cache) == before


def test_another_vae_or_other_images_are_refused(folder, cache, tmp_path):
    with pytest.raises(CacheError, match="vae sha256"):
        cache_latents(list_images(folder), NARROW, cache, SETTINGS)
    with pytest.raises(CacheError, match="vae sha256"):
        CachedLatents(cache, vae_sha256=file_sha256(NARROW))
    with pytest.raises(CacheError, match="img size 32, not 256"):
        CachedLatents(cache, vae_sha256=file_sha256(VAE), img_size=256)
    images = list_images(folder)
    with pytest.raises(CacheError, match="fingerprint"):
        cache_latents(replace(images, labels=images.labels[::-1]), VAE, cache, SETTINGS)
    (tmp_path / "other.txt").write_text("")
    with pytest.raises(CacheError, match="not empty"):
        cache_latents(images, VAE, tmp_path, SETTINGS)


def test_unsuitable_settings_are_refused(folder, tmp_path):
    images = list_images(folder)
    with pytest.raises(ConfigError, match="img_size 36 is not a multiple of 8"):
        cache_latents(images, VAE, tmp_path / "c", replace(SETTINGS, img_size=36))
    with pytest.raises(ConfigError, match="device 'tpu9' cannot be used"):
        cache_latents(images, VAE, tmp_path / "c", replace(SETTINGS, device="tpu9"))
    with pytest.raises(ConfigError, match="batch is 0"):
        replace(SETTINGS, batch=0)


def test_a_refused_run_leaves_nothing(folder, tmp_path):
    images = list_images(folder)
    for change in ({"img_size": 36}, {"device": "meta"}, {"device": "cuda:1023"}):
        with pytest.raises(ConfigError):
            cache_latents(images, VAE, tmp_path / "c", replace(SETTINGS, **change))
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot be written: Not a directory"):
        cache_latents(images, VAE, tmp_path / "file" / "c", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("labels", lambda labels: labels.to(torch.int8), "labels is I8 .* requires I64"),
        ("labels", lambda labels: labels.float(), "labels is F32"),
        ("labels", lambda labels: labels + 5, "labels run from 5 to .* the index names 2 classes"),
        ("labels", lambda labels: labels - 1, "labels run from -1"),
        ("high", lambda high: high.half(), "high is F16 .* requires F32"),
    ],
)
def test_shards_of_other_types_or_classes_are_refused(cache, tmp_path, name, change, text):
    out = tmp_path / "latents"
    shutil.copytree(cache, out)
    shard = out / "latents-00000.safetensors"
    tensors, _ = read_state(shard, key=None)
    write_safetensors(shard, {**tensors, name: change(tensors[name])}, {})
    with pytest.raises(CacheError, match=text):
        CachedLatents(out)


def test_images_none_of_which_can_be_read_are_an_error(tmp_path):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "a.png").write_text("no")
    with pytest.raises(InputError, match="none of the 1 images"):
        cache_latents(list_images(tmp_path / "images"), VAE, tmp_path / "c", SETTINGS)
    with pytest.raises(CacheError, match="holds no images"):
        CachedLatents(tmp_path / "c")


def test_moments_that_are_not_finite_are_never_written(folder, tmp_path, monkeypatch):
    def broken(vae, crops):
        return torch.full((len(crops), 2, 2, 4, 8, 8), 1e6), torch.zeros(len(crops), 2, 2, 4, 4, 4)

    monkeypatch.setattr("himar.data.cache.both_scales", broken)
    with pytest.raises(InputError, match=r"cat/00\.png .* float16; use float32"):
        cache_latents(list_images(folder), VAE, tmp_path / "c", replace(SETTINGS, dtype="float16"))
    assert not list(tmp_path.iterdir())


def test_damage_is_found(folder, tmp_path, capsys):
    out = tmp_path / "latents"
    cache_latents(list_images(folder), VAE, out, SETTINGS)
    assert run("cache-latents", "--check", "--out", out, "--vae", VAE) == 0
    assert run("cache-latents", "--check", "--out", out, "--vae", NARROW) == 1
    shard = out / "latents-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    capsys.readouterr()
    assert run("cache-latents", "--check", "--out", out, "--json") == 1
    output = capsys.readouterr()
    assert "latents-00001.safetensors" in json.loads(output.out)["problems"][0]
    assert "is not whole" in output.err
    shard.write_bytes(whole[:100])
    with pytest.raises(CacheError, match="missing or damaged"):
        CachedLatents(out)
    shard.unlink()
    assert len(damaged_shards(out, read_index(out))) == 1
    (out / "latents-00000.safetensors").replace(shard)
    with pytest.raises(CacheError, match="missing or damaged"):
        CachedLatents(out)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("{", "damaged"),
        ({"schema": "2.0"}, "newer"),
        ({"dtype": "int8"}, "damaged"),
        ({"shards": [{"file": "../x.safetensors", "count": 1, "sha256": ""}]}, "damaged"),
        ({"img_size": None}, "damaged"),
        ({"channels": 8}, "of shape"),
        (None, "holds no index.json"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(cache, tmp_path, change, named):
    out = tmp_path / "latents"
    out.mkdir()
    for path in cache.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    index = out / "index.json"
    if change is None:
        index.unlink()
    elif isinstance(change, str):
        index.write_text(change)
    else:
        index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    with pytest.raises(CacheError, match=named):
        CachedLatents(out)


@pytest.mark.parametrize("arguments", [[], ["x"], ["x", "--check"], ["--dtype", "int8"], ["x", "--device", "meta"]])
def test_wrong_usage_exits_with_2(arguments, tmp_path):
    assert run("cache-latents", *arguments, "--out", tmp_path / "c") == 2
    assert not (tmp_path / "c").exists()
