"""The tokenizer's files and inputs: which are refused, in which words, and what may be left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from himar.families.hmar.config import ModelConfig
from himar.families.hmar.sampler import sample_codes
from himar.families.hmar.tokenizer.files import load_tokenizer, save_tokenizer
from himar.families.hmar.tokenizer.network import Tokenizer, image_values
from himar.families.hmar.tokenizer.sizes import TokenizerConfig
from himar_kernels import CheckpointError, ConfigError, InputError
from himar_kernels.families.hmar import PhiloxDraws, Scales, decode_codes, encode_latent
from tests.closeness import COMPONENT, assert_near

from .conftest import GOLDEN

FILE = GOLDEN / "hmar-vae-narrow.pth"


def released() -> dict[str, torch.Tensor]:
    return torch.load(FILE, weights_only=True)


def expect(error, text, path, *arguments, **options):
    with pytest.raises(error, match=text):
        load_tokenizer(path, *arguments, **options)


@torch.no_grad()
def test_numpy_has_the_same_maps(narrow, images):
    scales, tokenizer = narrow.model.config.scales, narrow.tokenizer
    codes = torch.from_numpy(images["144/codes"]).long()
    assert_near(
        decode_codes(tokenizer.codebook(), scales, codes.numpy()), tokenizer.quantize.latents(scales, codes), 1e-6
    )
    latent = images["144/f"]
    ours = tokenizer.quantize.encode(scales, torch.from_numpy(latent))
    assert np.array_equal(encode_latent(tokenizer.codebook(), scales, latent), ours)


def test_the_usage_counter_may_be_anything_or_missing(tmp_path, narrow):
    state = released()
    for counter in (torch.full((3, 7), torch.nan), None):
        state["quantize.ema_vocab_hit_SV"] = counter
        torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "t.pth")
        assert load_tokenizer(tmp_path / "t.pth", narrow.model.config).config == narrow.tokenizer.config


def test_our_own_file_carries_its_norm_groups(tmp_path, narrow):
    save_tokenizer(narrow.tokenizer, tmp_path / "t.safetensors")
    again = load_tokenizer(tmp_path / "t.safetensors")
    assert again.config == narrow.tokenizer.config and again.config.groups == 4
    for name, tensor in narrow.tokenizer.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_norm_groups_that_do_not_divide_the_width():
    expect(ConfigError, "width 8 is not a multiple of its 32 norm groups; give vae_groups in the configuration", FILE)
    assert load_tokenizer(FILE, groups=2).config.groups == 2


def test_files_of_other_things(tmp_path):
    expect(CheckpointError, "does not exist", tmp_path / "none.pth")
    expect(CheckpointError, "not a multi-scale tokenizer's state dict: it has no", GOLDEN / "hmar-narrow-144.pth")
    expect(CheckpointError, "not a multi-scale tokenizer's state dict: it has no", GOLDEN / "vae-narrow.ckpt")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("quant_conv.bias", None, "lacks quant_conv.bias"),
        ("extra.weight", torch.zeros(2), "has an unknown extra.weight"),
        ("post_quant_conv.bias", torch.zeros(3), r"post_quant_conv.bias has shape \(3,\)"),
        ("encoder.conv_in.weight", None, "it has no 'encoder.conv_in.weight'"),
    ],
)
def test_a_tensor_that_is_missing_or_wrong(tmp_path, name, value, text):
    state = {**released(), name: value}
    torch.save({key: tensor for key, tensor in state.items() if tensor is not None}, tmp_path / "t.pth")
    expect(CheckpointError, text, tmp_path / "t.pth", groups=4)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"vocab": 4096}, "is not the model's tokenizer: its codes are 144, but the model asks for 4096"),
        ({"latent_channels": 32}, "its channels of a code are 16, but the model asks for 32"),
        ({"vae_stride": 8}, "its pixels per side of a cell are 16, but the model asks for 8"),
        ({"vae_ch": 160}, "its base width are 8, but the model asks for 160"),
    ],
)
def test_a_tokenizer_of_another_model(narrow, change, text):
    config = ModelConfig.from_dict({**narrow.model.config.to_dict(), "sampling": {"top_k": 9}, **change})
    expect(ConfigError, text, FILE, config)


def test_sampling_with_a_tokenizer_of_another_model(narrow):
    other = Tokenizer(TokenizerConfig(ch=8, latent_channels=16, vocab=9, groups=4))
    with pytest.raises(ConfigError, match="the tokenizer is not the model's tokenizer: its codes are 9"):
        sample_codes(narrow.model, other, [0], draws=PhiloxDraws(0))


def test_an_image_of_other_sides(narrow):
    with pytest.raises(InputError, match="the image has 160 × 144 pixels, but the model's scales need 144 × 144"):
        narrow.tokenizer.encode(torch.zeros(1, 3, 144, 160), narrow.model.config.scales)


@torch.no_grad()
def test_fewer_levels_have_a_smaller_stride():
    tokenizer = Tokenizer(TokenizerConfig(8, (1, 2, 2), 4, 16, groups=4, num_res_blocks=1, attention_levels=(2,)))
    scales = Scales([1, 2, 3, 5])
    codes = tokenizer.encode(torch.rand(2, 3, 20, 20), scales)
    assert (tokenizer.stride, codes.shape) == (4, (2, 39))
    assert tokenizer.decode_codes(codes, scales).shape == (2, 3, 20, 20)


def test_pixels_become_values():
    assert_near(image_values(np.array([0, 255, 51], np.uint8)), [-1, 1, -0.6], COMPONENT)
