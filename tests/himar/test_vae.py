"""The KL VAE: reference outputs, sizes from shapes, exact layout of the released KL-16."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from himar.loading.files import write_safetensors
from himar.vae.autoencoder import AutoencoderKL, VaeConfig, expected_shapes
from himar.vae.layouts import load_vae
from himar_kernels import CheckpointError, ConfigError
from tests.closeness import COMPONENT, assert_near

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUT = json.loads((GOLDEN / "checkpoint-layout.json").read_text())
SMALL = VaeConfig(ch=32, ch_mult=(1, 2), z_channels=4, num_res_blocks=1, attention_levels=())


@pytest.fixture(scope="module")
def narrow() -> AutoencoderKL:
    return load_vae(GOLDEN / "vae-narrow.ckpt")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "vae-narrow.npz") as file:
        return {name: torch.from_numpy(file[name]).float() for name in file.files}


@torch.no_grad()
def test_encodes_as_the_released_vae(narrow, golden):
    assert_near(narrow.moments(golden["image"]), golden["moments"], COMPONENT)
    assert_near(narrow.moments(golden["image_256_seeded"]), golden["moments_256"], COMPONENT)


@torch.no_grad()
def test_decodes_as_the_released_vae(narrow, golden):
    assert_near(narrow.decode(golden["latent"]), golden["decoded"], COMPONENT)
    # This reference image is stored in half precision.
    mean = golden["moments_256"][:, :16]
    assert_near(narrow.decode(mean), golden["decoded_256_mean"], 5e-4)


@torch.no_grad()
def test_encode_splits_and_limits_the_moments(golden):
    vae = AutoencoderKL(SMALL)
    with torch.no_grad():
        vae.quant_conv.bias.copy_(torch.tensor([0.0] * 4 + [100.0, -100.0, 0.0, 0.0]))
    mean, log_variance = vae.encode(golden["image"])
    assert mean.shape == log_variance.shape == (2, 4, 32, 32)
    assert log_variance[:, 0].unique().tolist() == [20.0]
    assert log_variance[:, 1].unique().tolist() == [-30.0]
    assert torch.equal(mean, vae.moments(golden["image"])[:, :4])


def test_has_exactly_the_layout_of_kl16():
    released = {name: tuple(shape) for name, shape in LAYOUT["kl16_vae"].items()}
    assert VaeConfig.from_shapes(released) == VaeConfig()
    assert expected_shapes(VaeConfig()) == released
    assert VaeConfig().stride == 16


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        VaeConfig(ch=64, ch_mult=(1, 2, 2), z_channels=8, num_res_blocks=3, attention_levels=(1, 2)),
        VaeConfig(ch=32, ch_mult=(1,), z_channels=3, num_res_blocks=1, attention_levels=(0,), out_channels=1),
    ],
)
def test_every_size_is_read_off_the_shapes(config):
    assert VaeConfig.from_shapes(expected_shapes(config)) == config


def test_safetensors_in_half_precision_load_as_float32(tmp_path, golden):
    vae = AutoencoderKL(SMALL)
    state = {name: value.half() for name, value in vae.state_dict().items()}
    write_safetensors(tmp_path / "vae.safetensors", state, {})
    loaded = load_vae(tmp_path / "vae.safetensors")
    assert loaded.config == SMALL
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        assert loaded.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 16, 16)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_vae(path)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    return text


def test_a_hi_mar_model_is_no_vae():
    assert "not a KL VAE" in refusal(GOLDEN / "himar-narrow-128.pth")


def test_missing_keys_and_wrong_shapes_are_named(tmp_path):
    state = AutoencoderKL(SMALL).state_dict()
    path = tmp_path / "vae.safetensors"
    without = {name: value for name, value in state.items() if name != "decoder.norm_out.bias"}
    write_safetensors(path, without, {})
    assert "decoder.norm_out.bias" in refusal(path)
    write_safetensors(path, {**state, "decoder.up.9.norm": torch.zeros(1)}, {})
    assert "decoder.up.9.norm" in refusal(path)
    write_safetensors(path, {**state, "decoder.norm_out.bias": torch.zeros(7)}, {})
    assert "(7,)" in refusal(path)


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="multiple of 32"):
        VaeConfig(ch=48)
    with pytest.raises(ConfigError, match="at least 1"):
        VaeConfig(z_channels=0)
