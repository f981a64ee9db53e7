"""The same seed gives the same image: whatever the batch, the chunks, and from eager or engines."""

from pathlib import Path

import numpy as np
import pytest

from himar import generate, load_checkpoint, load_vae
from himar_kernels import PhiloxDraws, to_uint8
from himar_runtime import Pipeline, read_recipes

WEIGHTS = Path(__file__).parents[2] / "himar" / "weights"
SEED = 11
LABELS = [i % 10 for i in range(70)]


@pytest.fixture(scope="module")
def pipeline(digits_bundle):
    return Pipeline.load(digits_bundle)


@pytest.fixture(scope="module")
def chunked(pipeline):
    """Seventy images are beyond max_batch 64, so this ran in two chunks."""
    return pipeline.generate(LABELS, seed=SEED)


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max())


def test_one_at_a_time(pipeline, chunked):
    for index in (0, 34, 35, 69):
        alone = pipeline.generate([LABELS[index]], seed=SEED, first_index=index)
        assert apart(alone.images[0], chunked.images[index]) <= 1


def test_whole_or_in_chunks(pipeline, chunked):
    whole = pipeline.generate(LABELS[:64], seed=SEED)
    assert apart(whole.images, chunked.images[:64]) <= 1


def test_eager_or_engines(chunked):
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    vae = load_vae(WEIGHTS / "digits-vae.safetensors")
    latents = generate(model, LABELS[:16], draws=PhiloxDraws(SEED))
    images = to_uint8(vae.decode(latents).numpy())
    assert apart(images, chunked.images[:16]) <= 1


def test_another_seed_is_another_image(pipeline, chunked):
    other = pipeline.generate([LABELS[0]], seed=SEED + 1)
    assert apart(other.images[0], chunked.images[0]) > 10


def test_a_png_is_made_again_from_its_recipe(pipeline, chunked, tmp_path):
    path = chunked.save(tmp_path)[40]
    again = pipeline.generate(**read_recipes(path)[0].request())
    assert apart(again.images[0], chunked.images[40]) <= 1
