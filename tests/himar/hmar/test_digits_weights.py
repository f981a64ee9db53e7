"""The shipped HMAR of the digits: its tokenizer keeps digits what they are, and it draws the digits asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import himar
from himar.data.digits import DigitClassifier, load_digits_split
from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.config import read_config, resolve
from himar.families.hmar.family import FAMILY
from himar.families.hmar.tokenizer.files import load_tokenizer
from himar.images import to_pixels

WEIGHTS = Path(himar.__file__).parent / "weights"
LABELS = np.arange(100) % 10


@pytest.fixture(scope="module")
def model():
    return load_checkpoint(WEIGHTS / "hmar-digits.safetensors")


@pytest.fixture(scope="module")
def tokenizer(model):
    return load_tokenizer(WEIGHTS / "hmar-digits-vae.safetensors", model.config)


def test_the_files_are_small_and_of_the_preset(model):
    assert sum(path.stat().st_size for path in WEIGHTS.glob("hmar-digits*.safetensors")) < 8e6
    assert model.config == resolve(read_config("hmar-digits"), {})


@torch.inference_mode()
def test_held_out_digits_pass_through_the_codes(model, tokenizer):
    _, held_out = load_digits_split()
    scales = model.config.scales
    codes = tokenizer.encode(held_out.images, scales)
    decoded = tokenizer.decode_codes(codes, scales)
    error = (decoded - held_out.images).square().mean()
    assert 10 * torch.log10(4 / error) > 25
    labels = held_out.labels.numpy()
    assert DigitClassifier().accuracy(to_pixels(decoded), labels) > 0.95
    # Every scale says something: without its own codes the picture is another one.
    partial = tokenizer.quantize.latents(scales, codes)
    errors = [(tokenizer.decode(each) - held_out.images).square().mean().item() for each in partial]
    assert errors == sorted(errors, reverse=True)


def test_the_digits_asked_for_are_drawn(model, tokenizer):
    """A thousand, from the engines: benchmarks/digits/recognised.py."""
    images = FAMILY.images(model, tokenizer, LABELS.tolist(), seed=0, sampling=model.config.default_sampling)
    assert DigitClassifier().accuracy(images, LABELS) >= 0.94
    assert DigitClassifier().accuracy(images, (LABELS + 1) % 10) < 0.05
    assert len(np.unique(images.reshape(100, -1), axis=0)) > 90
