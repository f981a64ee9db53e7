"""The shipped models make the images of the last release, on this CPU and with this ONNX Runtime."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from himar_runtime import Pipeline
from tests.closeness import RUN, assert_same_pixels
from tests.golden.release_images import CASES, FOLDER, golden, make, rounded_sha256, stored, stored_image


@pytest.fixture(scope="module")
def load(digits_bundle, digits_editing_bundle, scenes_bundle, hmar_digits_bundle):
    paths = {
        "digits": digits_bundle,
        "digits-editing": digits_editing_bundle,
        "scenes": scenes_bundle,
        "hmar-digits": hmar_digits_bundle,
    }
    return cache(lambda model: Pipeline.load(paths[model]))


@pytest.mark.parametrize("name", CASES)
def test_image_and_latents_are_the_releases(load, name) -> None:
    then = stored()[name]
    result = make(load(CASES[name].model), name)
    assert result.images is not None
    assert_same_pixels(result.images[0], stored_image(name))
    assert result.latents.shape == then.shape
    assert rounded_sha256(result.latents, then.offset) == then.sha256


def test_every_case_is_stored_once() -> None:
    assert stored().keys() == CASES.keys() == {path.stem for path in FOLDER.glob("*.png")}
    assert all(then.case == {**vars(CASES[name])} for name, then in stored().items())


def test_other_cpus_have_room() -> None:
    """A hash stands as long as latents move by less than ten times what a run's may differ by."""
    assert all(each.margin > 10 * RUN for each in stored().values())


def test_a_latent_that_moves_by_more_than_the_margin_is_seen() -> None:
    latents = np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    then = golden(latents, CASES["digits-default"])
    noise = np.random.default_rng(1).uniform(-0.9, 0.9, latents.shape) * then.margin
    assert rounded_sha256((latents + noise).astype(np.float32), then.offset) == then.sha256
    nearest = np.unravel_index(np.argmin(np.mod(latents - then.offset, 0.5)), latents.shape)
    latents[nearest] -= 1.1 * then.margin
    assert rounded_sha256(latents, then.offset) != then.sha256
