"""Small things that several files of tests read and none changes: each made once per worker."""

from pathlib import Path

import pytest

from himar.data.cache import cache_latents
from himar.data.folder import list_images
from tests.himar import small_cache, small_evaluation


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A folder of images, a subfolder per class."""
    return small_cache.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def cache(folder, tmp_path_factory) -> Path:
    """The latents of `folder`, cached."""
    out = tmp_path_factory.mktemp("cache") / "latents"
    cache_latents(list_images(folder), small_cache.VAE, out, small_cache.SETTINGS)
    return out


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A tiny model's file, random weights."""
    return small_evaluation.write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> tuple[Path, Path]:
    """Real digits as .npz: training and held-out."""
    return small_evaluation.write_digits(tmp_path_factory.mktemp("digits"))
