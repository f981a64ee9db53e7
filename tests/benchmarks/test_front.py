"""The README's picture: what its parts are, and that it carries the recipe of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import front
from himar_runtime import Pipeline
from himar_runtime.png import read_recipes

PICTURE = Path(__file__).parents[2] / "docs" / "front.png"


def test_pictures_of_a_prompt_sharpen_from_its_pivots_to_its_image(scenes_bundle) -> None:
    pipeline = Pipeline.load(scenes_bundle, threads=1)
    pictures, recipes = front.sharpening(pipeline)
    rows = pictures.reshape(len(front.PROMPTS), front.COLUMNS, *pictures.shape[1:])
    assert [recipe.prompt for recipe in recipes] == list(front.PROMPTS)
    images = pipeline.generate(prompts=list(front.PROMPTS), seed=front.SEED).images
    np.testing.assert_array_equal(rows[:, -1], front.enlarged(images))
    distances = np.abs(rows.astype(float) - rows[:, -1:].astype(float)).mean(axis=(0, 2, 3, 4))
    assert distances[0] > 2 * distances[-2] > 0  # the first pivots are further from the image than the last step


def test_the_committed_picture_carries_what_was_drawn() -> None:
    recipes = read_recipes(PICTURE)
    assert [recipe.prompt for recipe in recipes[:3]] == list(front.PROMPTS)
    assert len(recipes) == 3 + 2 * front.COLUMNS
    assert all(recipe.to_dict().get("edit") for recipe in recipes[-front.COLUMNS :])
