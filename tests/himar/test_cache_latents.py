"""Cached latents: the same numbers as encoding at once, whole after any interruption, refused when they do not fit."""

import json
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from himar.data.cache import cache_latents
from himar.data.cache_index import CacheError, read_index
from himar.data.cache_reader import CachedLatents
from himar.data.crop import read_crop
from himar.data.digits import half_size
from himar.data.folder import list_images
from himar.vae.layouts import load_vae
from himar_kernels import InputError
from tests.closeness import COMPONENT, assert_near
from tests.himar.small_cache import NARROW, SETTINGS, VAE, contents, run


@torch.no_grad()
def test_moments_are_those_of_encoding_each_image(folder, cache):
    latents = CachedLatents(cache)
    vae, images = load_vae(VAE), list_images(folder)
    kept = [row for row, name in enumerate(images.names) if name != "dog/05.png"]
    assert len(latents) == len(kept) == 13
    assert latents.labels.tolist() == [images.labels[row] for row in kept]
    chosen = torch.tensor([12, 0, 5, 0])
    for flip in (False, True):
        high, low = latents.moments(chosen, torch.full((4,), flip))
        crops = np.stack([read_crop(images.path(kept[index]), 32) for index in chosen])
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2) / 127.5 - 1
        pixels = pixels.flip(-1) if flip else pixels
        for ours, scale in ((high, pixels), (low, half_size(pixels))):
            mean, log_variance = vae.encode(scale)
            assert_near(ours[:, 0], mean, COMPONENT)
            assert_near(ours[:, 1], (0.5 * log_variance).exp(), COMPONENT)
    assert high.shape == (4, *latents.high_shape[1:])
    assert low.shape == (4, *latents.low_shape[1:])


def test_without_flips_a_draw_is_mean_plus_deviation_times_noise(cache):
    latents = CachedLatents(cache, flip=False)
    chosen = torch.tensor([3, 3, 11])
    *tokens, labels = latents.draw(chosen, 0.5, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    for ours, moments in zip(tokens, latents.moments(chosen), strict=True):
        mean, deviation = moments.unbind(1)
        latent = 0.5 * (mean + deviation * torch.randn(mean.shape, generator=generator))
        assert torch.equal(ours, latent.permute(0, 2, 3, 1).reshape(3, -1, 4))
    assert torch.equal(labels, latents.labels[chosen])


def test_half_of_the_draws_are_mirrored_at_both_scales_alike(cache):
    latents = CachedLatents(cache)
    plain, mirrored = (latents.moments(torch.tensor([2]), torch.tensor([flip])) for flip in (False, True))
    tokens = latents.draw(torch.full((200,), 2), 1.0, torch.Generator().manual_seed(1))
    sides = []
    for drawn, a, b in zip(tokens[:2], plain, mirrored, strict=True):
        grid = drawn.transpose(1, 2).reshape(200, *a.shape[2:])
        sides.append((grid - b[:, 0]).square().sum((1, 2, 3)) < (grid - a[:, 0]).square().sum((1, 2, 3)))
    assert torch.equal(*sides)
    assert 70 < int(sides[0].sum()) < 130


def test_half_precision_halves_the_disk_and_rounds_by_one_in_2048(folder, cache, tmp_path):
    cache_latents(list_images(folder), VAE, tmp_path / "half", replace(SETTINGS, dtype="float16"))
    every = torch.arange(13)
    for exact, rounded in zip(
        CachedLatents(cache).moments(every), CachedLatents(tmp_path / "half").moments(every), strict=True
    ):
        assert rounded.dtype == torch.float32
        assert ((exact - rounded).abs() <= exact.abs() / 2048 + 1e-7).all()
        assert not torch.equal(exact, rounded)
    sizes = [sum(path.stat().st_size for path in where.glob("*.safetensors")) for where in (cache, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_the_narrow_released_vae_is_cached_too(folder, tmp_path):
    index = cache_latents(list_images(folder), NARROW, tmp_path / "c", replace(SETTINGS, img_size=64))
    assert (index.channels, index.stride, index.sides) == (16, 16, (4, 2))
    assert CachedLatents(tmp_path / "c").high_shape == (13, 2, 16, 4, 4)


def test_skipped_files_are_listed_with_the_reason(cache):
    index = read_index(cache)
    assert [entry.path for entry in index.skipped] == ["notes.txt", "dog/05.png"]
    assert "identify" in index.skipped[1].reason
    assert index.class_names == ("cat", "dog")


KILLED = """
import os, signal, sys
from pathlib import Path
import himar.data.cache as cache
import himar.data.shard_writer as writer
from himar.data.folder import list_images
images, vae, out, when = sys.argv[1:]
if when == "writing":
    whole = writer.write_safetensors
    def write(path, *rest):
        if path.name.endswith("00001.safetensors"):
            left = path.parent / f".{path.name}.0a1b2c3d"
            left.mkdir()
            (left / path.name).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        whole(path, *rest)
    writer.write_safetensors = write
settings = cache.CacheSettings(img_size=32, dtype="float32", shard_size=5, batch=3, readers=2)
def kill(done, total):
    if when == "reading" and done >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
cache.cache_latents(list_images(Path(images)), Path(vae), Path(out), settings, kill)
"""


@pytest.mark.parametrize("when", ["reading", "writing"])
def test_a_killed_run_goes_on_and_ends_the_same(folder, cache, tmp_path, when, capsys):
    out = tmp_path / "latents"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(VAE), str(out), when], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(read_index(out).shards) == 1
    first = (out / "latents-00000.safetensors").stat().st_mtime_ns
    with pytest.raises(CacheError, match="unfinished, 1 of 3 shards"):
        CachedLatents(out)
    assert run("cache-latents", "--check", "--out", out) == 1
    assert "unfinished" in capsys.readouterr().err
    cache_latents(list_images(folder), VAE, out, SETTINGS)
    assert contents(out) == contents(cache)
    assert (out / "latents-00000.safetensors").stat().st_mtime_ns == first  # the finished shard was not made again


def test_a_finished_cache_is_left_alone(folder, cache):
    before = contents(cache)
    calls = []
    (cache / ".index.json.0a1b2c3d").mkdir()  # a run was killed while it wrote the index
    cache_latents(list_images(folder), VAE, cache, SETTINGS, lambda *state: calls.append(state))
    assert contents(cache) == before
    assert not calls


def test_workers_of_a_data_loader_can_read_it(cache):
    latents = CachedLatents(cache)
    latents.moments(torch.tensor([0]))
    copy = pickle.loads(pickle.dumps(latents))
    assert torch.equal(copy.moments(torch.tensor([7]))[0], latents.moments(torch.tensor([7]))[0])
    with pytest.raises(InputError, match="13"):
        latents.moments(torch.tensor([13]))
    with pytest.raises(InputError, match="-1"):
        latents.moments(torch.tensor([-1]))


def test_the_command_reports_what_it_did(folder, tmp_path, capsys):
    out = tmp_path / "latents"
    arguments = ("cache-latents", folder, "--vae", VAE, "--img-size", "32", "--out", out)
    assert run(*arguments, "--json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["images"], outcome["classes"], outcome["complete"]) == (13, 2, True)
    assert [entry["path"] for entry in outcome["skipped"]] == ["notes.txt", "dog/05.png"]
    assert run(*arguments) == 0
    output = capsys.readouterr()
    assert "13 images of 2 classes in 1 shards, 2 skipped" in output.out
    assert "skipped dog/05.png" in output.err


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_moments(folder, cache, tmp_path):
    cache_latents(list_images(folder), VAE, tmp_path / "c", replace(SETTINGS, device="cuda:0"))
    every = torch.arange(13)
    for ours, theirs in zip(
        CachedLatents(tmp_path / "c").moments(every), CachedLatents(cache).moments(every), strict=True
    ):
        assert_near(ours, theirs, 1e-4)
