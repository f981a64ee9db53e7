"""Bundles from text in C++: Python's images, recipes, sentences and commands, of prompts and of contexts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from himar_kernels import InputError
from himar_kernels.text import Tokenizer
from himar_runtime import Bundle, Device, Pipeline, load_engine, read_recipes
from tests.closeness import RUN, assert_near, assert_same_pixels
from tests.runtime.tiny_text import WC, K, write_text_bundle

PROMPTS = ["red", "two \u00fc red", "", "red", "two two two two red", "a", "\U0001f600"]


def contexts_of(bundle: Path) -> np.ndarray:
    tokens, _ = Tokenizer.open(bundle).ids(PROMPTS)
    return load_engine(Bundle.open(bundle), "text_encoder", Device("cpu"), 1).run({"tokens": tokens})["context"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance": 1.0},
        {"low_guidance": 3.0, "high_guidance": 1.0, "low_steps": 4, "first_index": 2**32 - 7},
        {"low_solver": "ddim", "high_solver": "dpm++", "guidance_schedule": "constant"},
    ],
    ids=lambda options: ",".join(options) or "defaults",
)
def test_prompts_and_contexts_give_pythons_images(library: Any, tiny_text_path: Path, options: dict[str, Any]) -> None:
    pipeline = Pipeline.load(tiny_text_path, threads=1)
    for given in ({"prompts": PROMPTS}, {"contexts": contexts_of(tiny_text_path)}):
        wanted = pipeline.generate(**given, seed=11, **options)
        found = library.generate(tiny_text_path, **given, seed=11, **options)
        assert_near(found.latents, wanted.latents, RUN)
        assert_near(found.low_latents, wanted.low_latents, RUN)
        assert_same_pixels(found.images, wanted.images)
        assert [json.loads(recipe) for recipe in found.recipes] == [recipe.to_dict() for recipe in wanted.recipes]
        assert found.truncated == list(wanted.truncated)


def test_an_image_is_the_same_in_any_batch(library: Any, tiny_text_path: Path, tmp_path: Path) -> None:
    wanted = Pipeline.load(tiny_text_path, threads=1).generate(prompts=PROMPTS, seed=5, guidance=2.0).latents
    small = write_text_bundle(tmp_path / "bundle", max_batch=2)
    assert_near(library.generate(small, prompts=PROMPTS, seed=5, guidance=2.0).latents, wanted, RUN)
    alone = library.generate(small, prompts=PROMPTS[4:5], seed=5, guidance=2.0, first_index=4)
    assert_near(alone.latents, wanted[4:5], RUN)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"labels": [1]},
        {"labels": [1], "prompts": ["red"]},
        {"prompts": []},
        {"prompts": ["red", "a <|endoftext|> b"]},
        {"contexts": np.full((2, K, WC), np.nan, np.float32)},
        {"contexts": np.zeros((0, K, WC), np.float32)},
    ],
    ids=lambda given: ",".join(given) or "nothing",
)
def test_errors_are_pythons_sentences(library: Any, tiny_text_path: Path, bundle_path: Path, given: Any) -> None:
    with pytest.raises(InputError) as wanted:
        Pipeline.load(tiny_text_path).generate(**given)
    with pytest.raises(RuntimeError) as found:
        library.generate(tiny_text_path, **given)
    assert str(found.value) == str(wanted.value)


def test_what_a_bundle_does_not_take_is_refused_as_in_python(library: Any, bundle_path: Path, tmp_path: Path) -> None:
    alone = write_text_bundle(tmp_path / "bundle", encoder=False)
    for bundle in (bundle_path, alone):
        with pytest.raises(InputError) as wanted:
            Pipeline.load(bundle).generate(prompts=["red"])
        with pytest.raises(RuntimeError) as found:
            library.generate(bundle, prompts=["red"])
        assert str(found.value) == str(wanted.value)
    contexts = np.random.default_rng(3).standard_normal((3, K, WC)).astype(np.float32)
    wanted_images = Pipeline.load(alone, threads=1).generate(contexts=contexts, seed=1)
    assert_near(library.generate(alone, contexts=contexts, seed=1).latents, wanted_images.latents, RUN)


def test_himar_generate_makes_images_of_prompts(run: Any, built: Path, tiny_text_path: Path, tmp_path: Path) -> None:
    program, file = built / "examples" / "himar-generate", tmp_path / "prompts.txt"
    file.write_text("\ufeffred\n\n  two two two two red \r\n", encoding="utf-8")
    options = ["--seed", "9", "--threads", "1", "--json", "--out", tmp_path / "out"]
    report = json.loads(run(program, tiny_text_path, "--prompt", "two", "--prompts-file", file, *options))
    assert report["images"] == 3
    wanted = Pipeline.load(tiny_text_path, threads=1).generate(prompts=["two", "red", "two two two two red"], seed=9)
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == [f"9-{index:05d}-text.png" for index in range(3)]
    for path, recipe, pixels in zip(paths, wanted.recipes, wanted.images, strict=True):
        assert read_recipes(path) == (recipe,)
        assert_same_pixels(np.asarray(Image.open(path)), pixels)
    assert "both given" in run(program, tiny_text_path, "--prompt", "two", "--labels", "1", code=2)
    (tmp_path / "none.txt").write_text("\n")
    assert "holds no prompt" in run(program, tiny_text_path, "--prompts-file", tmp_path / "none.txt", code=1)
