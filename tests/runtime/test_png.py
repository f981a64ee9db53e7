"""An image found on a disk a year later must say how to make it again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from himar_kernels import InputError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_runtime import Pipeline, Recipe, read_recipes, write_png
from himar_runtime.recipe import EditedFrom
from tests.closeness import RUN, assert_near

RECIPE = Recipe(2**64 - 1, 3, 7, SamplingConfig(low_guidance=2.7), "ab" * 32, "0.1.0")


def test_a_recipe_survives_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    write_png(tmp_path / "a.png", pixels, [RECIPE, replace(RECIPE, index=4)])
    assert read_recipes(tmp_path / "a.png") == (RECIPE, replace(RECIPE, index=4))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_recipe_of_an_edit_survives_the_file_and_others_say_nothing_of_it(tmp_path: Path) -> None:
    edited = replace(RECIPE, label=None, edit=EditedFrom("ab" * 32, "cd" * 32))
    write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8), [edited])
    assert read_recipes(tmp_path / "a.png") == (edited,)
    assert "edit" not in RECIPE.to_dict()
    with pytest.raises(InputError, match="this image was not edited; use request"):
        RECIPE.edit_request(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.bool_))


def test_saved_images_can_be_made_again(bundle_path: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.load(bundle_path)
    result = pipeline.generate([1, 4, 2], seed=9, guidance=1.7, first_index=5, high_steps=3)
    paths = result.save(tmp_path / "new" / "images")
    assert [path.name for path in paths] == ["9-00005-1.png", "9-00006-4.png", "9-00007-2.png"]
    (recipe,) = read_recipes(paths[1])
    assert (recipe.seed, recipe.index, recipe.label, recipe.bundle) == (9, 6, 4, pipeline.bundle.id)
    again = pipeline.generate(**recipe.request())
    assert_near(again.latents[0], result.latents[1], RUN)
    assert again.recipes == (recipe,)


def test_a_recipe_names_its_solvers_only_where_it_has_some(tmp_path: Path) -> None:
    """A himar before solvers reads every recipe that it can follow, and refuses the others."""
    assert not {"low_solver", "high_solver"} & RECIPE.to_dict()["sampling"].keys()
    solved = replace(RECIPE, sampling=SamplingConfig(high_solver="dpm++"))
    write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), [solved])
    assert read_recipes(tmp_path / "a.png") == (solved,)


def test_a_recipe_without_a_seed_says_so() -> None:
    recipe = Recipe(None, 0, 1, SamplingConfig(), "", "")
    with pytest.raises(InputError, match="made from given draws"):
        recipe.request()


def _png_with(path: Path, text: str | None) -> Path:
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_text("himar", text)
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "carries no himar recipe"),
        ("{", "carries a damaged recipe"),
        ("{}", "carries a damaged recipe"),
        ("[]", "carries a damaged recipe"),
        ("[1]", "carries a damaged recipe"),
        ("[{}]", "holds no recipe that this himar can read"),
        (json.dumps([{**RECIPE.to_dict(), "sampling": {"low_steps": 0}}]), "holds no recipe .* low_steps is 0"),
        (json.dumps([{**RECIPE.to_dict(), "extra": 1}]), "holds no recipe .* 'extra'"),
    ],
)
def test_other_pngs_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_recipes(_png_with(tmp_path / "a.png", text))


def test_files_that_are_no_png_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.png is not a readable PNG"):
        read_recipes(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InputError, match=r"text\.png is not a readable PNG"):
        read_recipes(tmp_path / "text.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg is not a readable PNG"):
        read_recipes(tmp_path / "a.jpg")


def test_a_bundle_without_decoder_has_nothing_to_save(make_bundle, tmp_path: Path) -> None:
    result = Pipeline.load(make_bundle(decoder=False)).generate([1])
    assert result.images is None
    assert result.latents.shape == (1, 2, 4, 4)
    with pytest.raises(InputError, match="no VAE decoder"):
        result.save(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file/images cannot be written"):
        Pipeline.load(bundle_path).generate([1]).save(tmp_path / "file" / "images")
