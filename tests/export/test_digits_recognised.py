"""The engines' digits are digits: a classifier of real ones recognises them as the class asked for."""

from pathlib import Path

import numpy as np
import pytest

from himar import load_checkpoint, load_vae
from himar.data.digits import DigitClassifier, load_digits_split
from himar.family import model_family, open_model
from himar.images import sample_images
from himar_kernels import PhiloxDraws, to_uint8
from himar_runtime import Pipeline

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
LABELS = np.arange(500) % 10


@pytest.fixture(scope="module")
def classifier():
    classifier = DigitClassifier()
    _, held_out = load_digits_split()
    assert classifier.accuracy(to_uint8(held_out.images.numpy()), held_out.labels.numpy()) >= 0.97
    return classifier


@pytest.mark.slow
def test_five_hundred_digits_from_the_engines_and_a_hundred_from_eager(classifier, digits_bundle):
    """A thousand from both: benchmarks/digits/recognised.py."""
    engines = Pipeline.load(digits_bundle).generate(LABELS, seed=0).images
    assert classifier.accuracy(engines, LABELS) >= 0.95

    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    vae = load_vae(WEIGHTS / "digits-vae.safetensors")
    eager = sample_images(model, vae, LABELS[:100].tolist(), PhiloxDraws(0))
    assert np.mean(classifier.predict(eager) == classifier.predict(engines[:100])) >= 0.99


@pytest.mark.slow
def test_a_hundred_digits_of_hmar_s_engines_are_those_of_eager(classifier, hmar_digits_bundle):
    """A thousand of both: benchmarks/digits/recognised.py."""
    labels = LABELS[:100]
    engines = Pipeline.load(hmar_digits_bundle).generate(labels, seed=0).images
    assert classifier.accuracy(engines, labels) >= 0.94

    model, _ = open_model(WEIGHTS / "hmar-digits.safetensors")
    family = model_family(model.family)
    vae = family.load_vae(WEIGHTS / "hmar-digits-vae.safetensors", model)
    eager = family.images(model, vae, labels.tolist(), seed=0, sampling=model.config.default_sampling)
    assert np.abs(engines.astype(np.int16) - eager).max() <= 1
