"""Bundles and PNGs of earlier versions: read, verified and generated again as on the day they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himar_export.cli import main
from himar_runtime import Bundle, Pipeline, read_recipes
from tests.closeness import RUN, assert_near, assert_same_pixels

EARLIER = Path(__file__).parents[1] / "golden" / "bundle-1.2"


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.load(EARLIER / "bundle")


def test_a_bundle_from_before_families_is_of_hi_mar(pipeline):
    manifest = pipeline.bundle.manifest
    assert (manifest.schema_version, manifest.himar_version, manifest.family) == ("1.2", "0.1.0", "hi_mar")
    assert list(manifest.sampling) == ["default", "fast"]


def test_it_still_verifies(capsys):
    assert main(["verify", str(EARLIER / "bundle")]) == 0
    assert "all 17 outputs match" in capsys.readouterr().out


@pytest.mark.parametrize("sampling", ["default", "fast"])
def test_it_generates_what_it_generated_then(pipeline, sampling):
    then = np.load(EARLIER / f"{sampling}.npz")
    result = pipeline.generate([3], seed=9, sampling=sampling)
    assert_near(result.latents, then["latents"], RUN)
    assert_near(result.low_latents, then["low_latents"], RUN)
    assert_same_pixels(result.images[0], np.asarray(Image.open(EARLIER / f"{sampling}.png")))


@pytest.mark.parametrize("sampling", ["default", "fast"])
def test_the_recipe_in_its_png_makes_the_image_again(pipeline, sampling):
    (recipe,) = read_recipes(EARLIER / f"{sampling}.png")
    assert (recipe.seed, recipe.index, recipe.label, recipe.family) == (9, 0, 3, "hi_mar")
    assert recipe.bundle == Bundle.open(EARLIER / "bundle").id
    image = pipeline.generate(**recipe.request()).images[0]
    assert_same_pixels(image, np.asarray(Image.open(EARLIER / f"{sampling}.png")))
    assert "family" not in recipe.to_dict()
