"""himar train's data: a cache, image files, your own object; and what the command says when they do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from himar.cli import main
from himar.data.cache_index import CacheError
from himar.data.folder import list_images
from himar.data.latents import check_fit, fingerprint
from himar.data.source import ImageLatents, open_data
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.config import read_config, resolve
from himar.training.run import train_model
from himar.training.state import STATE_FILE
from himar.vae.autoencoder import AutoencoderKL, VaeConfig
from himar.vae.layouts import load_vae
from himar.vae.training import save_vae
from himar_kernels import ConfigError, InputError
from tests.closeness import assert_near
from tests.himar import tiny_training as tiny

# Images of 16 pixels, tokens of 4: as tiny_training has them.
CONFIG = {
    **{name: value for name, value in tiny.TINY.to_dict().items() if name != "sampling"},
    "sampling": {"low_steps": 2, "high_steps": 2, "low_diffusion_steps": 2, "high_diffusion_steps": 2},
}


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with images of three classes, a VAE, a configuration and a cache of the images."""
    folder = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(4):
            pixels = chance.integers(0, 255, (20, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")
    torch.manual_seed(0)
    sizes = VaeConfig(ch=32, ch_mult=(1, 1, 1), z_channels=4, num_res_blocks=1, attention_levels=())
    save_vae(folder / "vae.safetensors", AutoencoderKL(sizes))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    arguments = (folder / "images", "--vae", folder / "vae.safetensors", "--out", folder / "cache", "--img-size", "16")
    assert run("cache-latents", *arguments) == 0
    return folder


def train(files: Path, out: Path, *more: str | Path, data: str = "cache") -> int:
    arguments = ("--config", files / "config.json", "--data", files / data, "--out", out, "--batch", "4")
    return run("train", *arguments, "--lr", "1e-3", *more)


def test_images_and_their_cache_give_the_same_tokens(files):
    config = resolve(read_config(CONFIG), {})
    cached, _ = open_data(files / "cache", config, None, "cpu")
    live, vae = open_data(files / "images", config, files / "vae.safetensors", "cpu")
    assert isinstance(live, ImageLatents)
    assert vae is not None
    check_fit(config, live)
    chosen = torch.tensor([0, 5, 11, 5])
    ours, theirs = (data.draw(chosen, 0.5, torch.Generator().manual_seed(2)) for data in (live, cached))
    for one, other in zip(ours, theirs, strict=True):
        assert_near(one, other, 1e-3)  # the cache holds float16
    assert ours[0].shape == (4, 16, 4)
    assert fingerprint(live)["labels"] == fingerprint(cached)["labels"]


def test_the_command_trains_from_a_cache_stops_and_resumes_to_the_same_weights(files, tmp_path, capsys):
    common = ("--steps", "4", "--snapshot-every", "2", "--vae", files / "vae.safetensors")
    assert train(files, tmp_path / "whole", *common) == 0
    assert "wrote" in capsys.readouterr().out
    assert train(files, tmp_path / "whole", *common) == 1
    assert "resume it" in capsys.readouterr().err
    assert train(files, tmp_path / "whole", "--resume", "--lr", "2e-3", *common) == 1
    assert "settings.schedule.peak was 0.001 when this training began and is 0.002 now" in " ".join(
        capsys.readouterr().err.split()
    )
    assert train(files, tmp_path / "whole", "--resume", *common) == 0
    weights = load_checkpoint(tmp_path / "whole" / "model.safetensors")
    assert weights.config.width == 32


def test_the_command_takes_images_variants_half_precision_and_parts(files, tmp_path):
    options = ("--variant", "visual", "--vae", files / "vae.safetensors", "--epochs", "0.7", "--precision", "bf16")
    more = ("--accumulate", "2", "--recompute", "--released-layout", "--warmup-epochs", "0.3", "--pivot-share", "1")
    assert train(files, tmp_path, *options, *more, data="images") == 0
    assert load_checkpoint(tmp_path / "model.safetensors").config.pivots == "visual"
    assert load_checkpoint(tmp_path / "checkpoint-last.pth", {"heads": 2, "vae_stride": 4}).config.high_head == "mlp"
    assert (tmp_path / STATE_FILE).exists()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--steps", "2", "--epochs", "1"), 2, "--epochs and --steps were both given"),
        (("--variant", "row-7"), 2, "'row-7' is not one of 'single-scale'"),
        (("--device", "tpu"), 2, "'tpu' is not cpu, cuda"),
        (("--accumulate", "3", "--steps", "2"), 2, "a batch of 4 does not divide"),
        (("--ema", "1.5", "--steps", "2"), 2, "1.5 is not in the range"),
    ],
)
def test_what_cannot_be_is_answered_before_training(files, tmp_path, capsys, options, code, text):
    assert train(files, tmp_path / "out", *options) == code
    assert text in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_images_need_a_vae_and_digits_bring_their_own(files, tmp_path, capsys):
    assert train(files, tmp_path / "out", data="images") == 1
    assert "give --vae, or cache them" in capsys.readouterr().err
    arguments = ("--config", "digits", "--data", "digits", "--out", tmp_path / "out")
    assert run("train", *arguments, "--vae", files / "vae.safetensors") == 2
    assert "trains its own VAE" in capsys.readouterr().err


def test_data_of_another_size_or_vae_is_refused(files):
    with pytest.raises(ConfigError):
        open_data(
            files / "images", resolve(read_config({**CONFIG, "vae_stride": 2}), {}), files / "vae.safetensors", "cpu"
        )
    wide = resolve(read_config({**CONFIG, "img_size": 32}), {})
    with pytest.raises(CacheError, match="img size 16, not 32"):
        open_data(files / "cache", wide, None, "cpu")


def test_an_image_that_cannot_be_read_is_named(files, tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    latents = ImageLatents(list_images(tmp_path), load_vae(files / "vae.safetensors"), 16)
    with pytest.raises(InputError, match=r"broken\.png cannot be read.*cache-latents"):
        latents.draw(torch.tensor([0]), 1.0, torch.Generator())


def test_any_object_with_the_protocol_can_be_trained_on():
    class Noise:
        labels = torch.arange(6)
        high_shape, low_shape = (6, 2, 4, 4, 4), (6, 2, 4, 2, 2)

        def draw(self, chosen, scale, generator):
            high, low = (torch.randn(len(chosen), n, 4, generator=generator) * scale for n in (16, 4))
            return high, low, self.labels[chosen]

    averaged = train_model(tiny.model(), Noise(), tiny.settings(2), 0)
    assert torch.isfinite(averaged.z_proj.weight).all()
