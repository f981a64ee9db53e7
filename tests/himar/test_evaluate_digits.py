"""The shipped classifier of digits: how good it is, how it was made, and which files are not it."""

import numpy as np
import pytest

from himar.data.digits import load_digits_split
from himar.evaluation.digits_extractor import DIGITS_WEIGHTS, DigitsExtractor
from himar.evaluation.digits_training import train_digit_network
from himar.training.optimise import Schedule
from himar_kernels import CheckpointError, InputError, to_uint8


def test_the_digits_classifier_knows_held_out_digits():
    _, held_out = load_digits_split()
    features = DigitsExtractor()(to_uint8(held_out.images.numpy()))
    assert (features.pool.shape[1], features.spatial.shape[1]) == (64, 112)
    assert (features.probabilities.argmax(1) == held_out.labels.numpy()).mean() > 0.98
    with pytest.raises(InputError, match=r"\(m, 32, 32, 3\)"):
        DigitsExtractor()(np.zeros((2, 8, 8, 3), np.uint8))


def test_the_shipped_classifier_can_be_trained_anew():
    _, held_out = load_digits_split()
    images = to_uint8(held_out.images.numpy())
    networks = [train_digit_network(Schedule(steps=40, peak=2e-3)) for _ in range(2)]
    assert all((a == b).all() for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True))
    extractor = DigitsExtractor()
    extractor._network = networks[0]
    assert (extractor(images).probabilities.argmax(1) == held_out.labels.numpy()).mean() > 0.6


def test_a_digits_file_of_another_network_is_refused():
    with pytest.raises(CheckpointError, match="does not hold the digits classifier"):
        DigitsExtractor(DIGITS_WEIGHTS.with_name("digits-vae.safetensors"))
