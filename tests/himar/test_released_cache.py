"""The released code's latent cache: data for a single-scale model, and for the others a sentence on what it lacks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from himar.data.released_cache import ReleasedLatents, is_released_cache, list_released_cache
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.presets import vary
from himar_kernels import ConfigError, InputError
from tests.closeness import assert_each_near
from tests.himar import tiny_training as tiny
from tests.himar.small_cache import VAE, run

SIZES = {
    **{name: value for name, value in tiny.TINY.to_dict().items() if name != "sampling"},
    "sampling": {"low_steps": 2, "high_steps": 2, "low_diffusion_steps": 2, "high_diffusion_steps": 2},
}
MAR = resolve(vary(read_config(SIZES), "single-scale"), {})


@pytest.fixture
def cached(tmp_path) -> Path:
    """Moments of eight images of two classes, as the released code caches them."""
    chance = np.random.default_rng(0)
    for name in ("n01", "n02"):
        (tmp_path / "cached" / name).mkdir(parents=True)
        for number in range(4):
            moments = chance.standard_normal((8, 4, 4)).astype(np.float32)
            path = tmp_path / "cached" / name / f"{number}.JPEG.npz"
            np.savez(path, moments=moments, moments_flip=moments[:, :, ::-1])
    return tmp_path / "cached"


def train(data: Path, out: Path, *more: str) -> int:
    (out.parent / "sizes.json").write_text(json.dumps(SIZES))
    arguments = ("--config", out.parent / "sizes.json", "--data", data, "--out", out, "--batch", "4", "--lr", "1e-3")
    return run("train", *arguments, "--steps", "2", "--snapshot-every", "1", *more)


def test_a_single_scale_model_trains_on_it_stops_and_resumes(cached, tmp_path, capsys):
    assert is_released_cache(cached)
    assert train(cached, tmp_path / "run", "--variant", "single-scale") == 0
    assert "2 classes: 0 = n01, 1 = n02" in capsys.readouterr().err
    model = load_checkpoint(tmp_path / "run" / "model.safetensors")
    assert model.config.single_scale
    assert model.class_names[:3] == ("n01", "n02", "")
    assert train(cached, tmp_path / "run", "--variant", "single-scale", "--resume") == 0


def test_what_is_drawn_is_mean_plus_deviation_times_noise(cached):
    latents = ReleasedLatents(list_released_cache(cached), MAR, flip=False)
    assert latents.high_shape == (8, 2, 4, 4, 4)
    assert latents.labels.tolist() == [0] * 4 + [1] * 4
    high, low, labels = latents.draw(torch.tensor([5, 0]), 0.5, torch.Generator().manual_seed(3))
    assert (high.shape, low.shape, labels.tolist()) == ((2, 16, 4), (2, 0, 4), [1, 0])
    with np.load(cached / "n02" / "1.JPEG.npz") as file:
        mean, log_variance = torch.from_numpy(file["moments"]).chunk(2)
    generator = torch.Generator().manual_seed(3)
    torch.rand(2, generator=generator)
    noise = torch.randn(2, 4, 4, 4, generator=generator)[0]
    expected = 0.5 * (mean + (0.5 * log_variance).exp() * noise)
    assert_each_near(high[0], expected.flatten(1).T, 1e-6)


def test_half_of_the_draws_are_of_the_mirrored_moments(cached):
    latents = ReleasedLatents(list_released_cache(cached), MAR)
    with np.load(cached / "n01" / "0.JPEG.npz") as file:
        sides = [torch.from_numpy(file[name][:4].copy()) for name in ("moments", "moments_flip")]
    high, *_ = latents.draw(torch.zeros(200, dtype=torch.long), 1.0, torch.Generator().manual_seed(0))
    grids = high.transpose(1, 2).reshape(200, 4, 4, 4)
    plain, mirrored = ((grids - side).square().sum((1, 2, 3)) for side in sides)
    assert 70 < int((mirrored < plain).sum()) < 130


def test_other_models_and_caching_are_told_what_it_lacks(cached, tmp_path, capsys):
    assert train(cached, tmp_path / "run") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "moments of images of one size" in said
    assert "phase low also trains on moments of the same images at 8 pixels, which are not there" in said
    assert not (tmp_path / "run").exists()
    assert run("cache-latents", cached, "--vae", VAE, "--out", tmp_path / "c") == 1
    assert "holds latents that are cached already" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="one size"):
        ReleasedLatents(list_released_cache(cached), tiny.TINY)


def _write(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)


FINE = np.zeros((8, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "it is not an .npz file, or it is damaged"),
        (lambda path: path.write_bytes(b""), "it is not an .npz file, or it is damaged"),
        (lambda path: _write(path, moments=FINE), "it has no moments_flip"),
        (lambda path: _write(path, moments=FINE[:, :2], moments_flip=FINE), "of shape (2, 4, 2, 4), not (2, 4, 4, 4)"),
        (lambda path: _write(path, moments=FINE * np.nan, moments_flip=FINE), "hold values that are not finite"),
        (lambda path: _write(path, moments=FINE.astype(int), moments_flip=FINE), "are int64 (8, 4, 4), not floating"),
        (lambda path: _write(path, moments=FINE[:7], moments_flip=FINE), "are float32 (7, 4, 4), not floating"),
        (
            lambda path: _write(path, moments=np.array([{}]), moments_flip=FINE),
            "it is not an .npz file, or it is damaged",
        ),
    ],
)
def test_damaged_files_are_named_before_the_first_step(cached, tmp_path, capsys, write, reason):
    write(cached / "n02" / "2.JPEG.npz")
    assert train(cached, tmp_path / "run", "--variant", "single-scale") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "n02/2.JPEG.npz (" in said
    assert reason in said
    assert not (tmp_path / "run").exists()


def test_a_list_of_cached_files_and_a_damaged_first_one(cached, tmp_path):
    (tmp_path / "list.txt").write_text("cached/n02/1.JPEG.npz 0\ncached/n01/0.JPEG.npz 1\n")
    assert is_released_cache(tmp_path / "list.txt")
    assert ReleasedLatents(list_released_cache(tmp_path / "list.txt"), MAR).labels.tolist() == [0, 1]
    np.savez(cached / "n01" / "0.JPEG.npz", moments=FINE[0])
    with pytest.raises(InputError, match=r"0\.JPEG\.npz cannot be read: its moments are float32 \(4, 4\)"):
        ReleasedLatents(list_released_cache(cached), MAR)
    np.savez(cached / "n01" / "0.JPEG.npz", other=FINE)
    assert not is_released_cache(cached)
    assert not is_released_cache(tmp_path / "absent")
