"""The digits: a fixed split, honest sizes, and a classifier good enough to judge generated images."""

import numpy as np
import pytest
import torch

from himar.data.digits import DigitClassifier, half_size, load_digits_split
from himar_kernels import InputError, to_uint8


@pytest.fixture(scope="module")
def split():
    return load_digits_split()


@pytest.fixture(scope="module")
def classifier():
    return DigitClassifier()


def test_the_split_is_fixed_and_even(split):
    train, held_out = split
    assert train.images.shape == (1437, 3, 32, 32)
    assert held_out.images.shape == (360, 3, 32, 32)
    assert all(35 <= count <= 37 for count in torch.bincount(held_out.labels).tolist())
    again, _ = load_digits_split()
    assert torch.equal(again.images, train.images)
    assert -1 <= train.images.min() < -0.99 < 0.99 < train.images.max() <= 1


def test_half_size_keeps_the_picture(split):
    images = split[1].images[:20]
    small = half_size(images)
    assert small.shape == (20, 3, 16, 16)
    boxes = torch.nn.functional.avg_pool2d(images, 2)
    assert (small - boxes).abs().mean() < 0.06


def test_recognises_held_out_digits(split, classifier):
    _, held_out = split
    pixels, labels = to_uint8(held_out.images.numpy()), held_out.labels.numpy()
    assert classifier.accuracy(pixels, labels) >= 0.97
    assert classifier.accuracy(pixels, (labels + 1) % 10) < 0.03
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    assert classifier.accuracy(noise, labels) < 0.3


def test_other_images_are_refused(classifier):
    with pytest.raises(InputError, match="uint8"):
        classifier.predict(np.zeros((2, 32, 32, 3), np.float32))
    with pytest.raises(InputError, match=r"\(2, 16, 16, 3\)"):
        classifier.predict(np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="at least one"):
        classifier.predict(np.zeros((0, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="one label per image"):
        classifier.accuracy(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(3, np.int64))
