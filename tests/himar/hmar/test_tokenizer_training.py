"""Training a tokenizer: the codes are the encoder's own, gradients go where they should, unused codes come back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from himar.data.digits import half_size, load_digits_split
from himar.families.hmar.tokenizer import training as tokenizer_training
from himar.families.hmar.tokenizer.network import Tokenizer
from himar.families.hmar.tokenizer.sizes import TokenizerConfig
from himar.families.hmar.tokenizer.training import (
    TokenizerTraining,
    quantize,
    restart_unused,
    shifts,
    straight_through,
    train_tokenizer,
)
from himar.training.optimise import Schedule, TrainingError
from himar_kernels import ConfigError
from himar_kernels.families.hmar import Scales
from tests.closeness import COMPONENT, assert_near

SCALES = Scales((1, 2, 4))
CONFIG = TokenizerConfig(
    ch=8, ch_mult=(1, 2), latent_channels=3, vocab=24, groups=4, num_res_blocks=1, attention_levels=()
)
TRAINING = TokenizerTraining(
    CONFIG, SCALES, Schedule(steps=36, peak=5e-3, warmup=3, decay="cosine"), batch=8, shift=1, restart_every=4
)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Real digits of 8 × 8 pixels."""
    return half_size(half_size(load_digits_split()[0].images[:32]))


@pytest.fixture
def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(CONFIG)


def test_training_learns_to_reconstruct_and_repeats_itself(images):
    errors: list[float] = []
    tokenizer = train_tokenizer(TRAINING, images, 3, lambda at: errors.append(at.figures["squared error"]))
    assert sum(errors[-5:]) < 0.5 * sum(errors[:5])
    again = train_tokenizer(TRAINING, images, 3)
    other = train_tokenizer(TRAINING, images, 4)
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(tokenizer.quantize.embedding.weight, other.quantize.embedding.weight)
    assert not tokenizer.training and not any(each.requires_grad for each in tokenizer.parameters())
    decoded = tokenizer.decode_codes(tokenizer.encode(images, SCALES), SCALES)
    assert (decoded - images).square().mean() < 0.5 * images.square().mean()


def test_codes_in_training_are_the_codes_of_encoding(tokenizer):
    latent = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = quantize(tokenizer.quantize, SCALES, latent)
    assert torch.equal(found.codes, tokenizer.quantize.encode(SCALES, latent))
    assert_near(found.partial.detach(), tokenizer.quantize.latents(SCALES, found.codes).detach(), COMPONENT)
    assert torch.equal(found.f_hat, found.partial[-1])
    assert torch.equal(tokenizer.quantize.nearest(found.words), found.codes)


def test_the_decoder_s_gradient_passes_to_the_encoder_and_not_to_the_codes(tokenizer, images):
    latent = tokenizer.latent(images[:2])
    latent.retain_grad()
    found = quantize(tokenizer.quantize, SCALES, latent)
    decoded = straight_through(tokenizer, latent, found.f_hat)
    # With the codes' latent as its value, the decoder's gradient reaches the encoder's latent as it is.
    f_hat = found.f_hat.detach().requires_grad_()
    direct = tokenizer.decoder(tokenizer.post_quant_conv(f_hat))
    assert_near(decoded.detach(), direct.detach(), COMPONENT)
    (expected,) = torch.autograd.grad(direct.square().sum(), f_hat)
    decoded.square().sum().backward()
    assert_near(latent.grad, expected, COMPONENT)
    assert tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0
    assert tokenizer.quantize.embedding.weight.grad is None


def test_unused_codes_take_words_of_the_batch_and_used_ones_stay(tokenizer):
    latent = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    before = tokenizer.quantize.embedding.weight.detach().clone()
    words = quantize(tokenizer.quantize, SCALES, latent).words.flatten(0, 1)
    unused = torch.arange(24) >= 20
    restart_unused(tokenizer.quantize, unused, SCALES, latent, torch.Generator().manual_seed(0))
    after = tokenizer.quantize.embedding.weight.detach()
    assert torch.equal(after[:20], before[:20])
    for code in after[20:]:
        assert (words == code).all(dim=1).any()


def test_unused_codes_are_restarted_until_the_share_of_steps_that_is_given(images, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(
        tokenizer_training, "restart_unused", lambda quantizer, unused, *rest: asked.append(len(unused))
    )
    train_tokenizer(replace(TRAINING, restart_share=0.4), images, 0)
    assert len(asked) == 1 + 3  # before the first step, which has no codes yet, and after steps 4, 8 and 12


def test_shifts_move_a_whole_picture_and_repeat_its_border():
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    seen = {tuple(copy.flatten().tolist()) for copy in shifts(picture, 1)}
    assert len(seen) == 9
    assert tuple(picture.flatten().tolist()) in seen
    down = torch.cat([picture[:, :, :1], picture[:, :, :3]], dim=2)
    assert tuple(down.flatten().tolist()) in seen
    assert [copy.tolist() for copy in shifts(picture, 0)] == [picture.tolist()]


def test_what_cannot_be_trained_is_refused(images):
    with pytest.raises(ConfigError, match=r"are \(32, 3, 8, 6\), but these scales and levels need \(n, 3, 8, 8\)"):
        train_tokenizer(TRAINING, images[..., :6], 0)
    with pytest.raises(TrainingError, match="the loss of step 1 is nan; lower the learning rate"):
        train_tokenizer(TRAINING, images * torch.nan, 0)
    with pytest.raises(ConfigError, match="restart_every is 0; it must be at least 1"):
        replace(TRAINING, restart_every=0)
    with pytest.raises(ConfigError, match="shift is -1; it must be at least 0"):
        replace(TRAINING, shift=-1)
    with pytest.raises(ConfigError, match=r"restart_share is 1\.5; it must be 0 to 1"):
        replace(TRAINING, restart_share=1.5)
    with pytest.raises(ConfigError, match=r"commitment is -1\.0; it must be a finite number of at least 0"):
        replace(TRAINING, commitment=-1.0)
