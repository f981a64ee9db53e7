"""Bundles from text: prompts and contexts through both loops, recipes, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from himar_kernels import BundleError, EngineError, InputError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.text import Tokenizer
from himar_runtime import Bundle, Device, Pipeline, Recipe, load_engine, load_networks, read_recipes
from tests.closeness import SAME_ENGINES, assert_near
from tests.runtime.resident_pipelines import host_pipeline, resident_pipeline, same
from tests.runtime.tiny_text import WC, K, empty_context, write_text_bundle

GUIDED = SamplingConfig(3, 2, low_guidance=1.5, high_guidance=2.0, low_diffusion_steps=6, high_diffusion_steps=5)
PROMPTS = ["red", "two red", "a red two", "red", ""]


@pytest.fixture(scope="module")
def pipeline(tiny_text_path):
    return Pipeline.load(tiny_text_path)


@pytest.fixture(scope="module")
def contexts(tiny_text_path):
    """Of PROMPTS, by the encoder alone."""
    bundle = Bundle.open(tiny_text_path)
    tokens, _ = Tokenizer.open(tiny_text_path).ids(PROMPTS)
    return load_engine(bundle, "text_encoder", Device("cpu"), 1).run({"tokens": tokens})["context"]


@pytest.mark.parametrize("sampling", [GUIDED, replace(GUIDED, low_guidance=1.0), replace(GUIDED, high_guidance=1.0)])
def test_both_loops_give_the_same_images_of_prompts_and_of_their_contexts(
    tiny_text_path, host_kernels, contexts, sampling
):
    resident, host = resident_pipeline(tiny_text_path, host_kernels), host_pipeline(tiny_text_path)
    expected = host.generate(contexts=contexts, seed=5, sampling=sampling, first_index=2)
    same(host.generate(prompts=PROMPTS, seed=5, sampling=sampling, first_index=2), expected)
    same(resident.generate(prompts=PROMPTS, seed=5, sampling=sampling, first_index=2), expected)
    same(resident.generate(contexts=contexts, seed=5, sampling=sampling, first_index=2), expected)
    same(resident.clone().generate(prompts=PROMPTS, seed=5, sampling=sampling, first_index=2), expected)


def test_an_image_is_the_same_in_any_batch_and_another_for_another_prompt(pipeline, tmp_path):
    together = pipeline.generate(prompts=PROMPTS, seed=5, sampling=GUIDED).latents
    chunked = Pipeline.load(write_text_bundle(tmp_path / "bundle", max_batch=2))
    assert_near(chunked.generate(prompts=PROMPTS, seed=5, sampling=GUIDED).latents, together, SAME_ENGINES)
    for index, prompt in enumerate(PROMPTS):
        alone = pipeline.generate(prompts=[prompt], seed=5, sampling=GUIDED, first_index=index).latents
        assert_near(alone[0], together[index], SAME_ENGINES)
    other = pipeline.generate(prompts=["two"], seed=5, sampling=GUIDED).latents
    assert np.linalg.norm(other[0] - together[0]) > 0.01 * np.linalg.norm(other)


def test_the_unconditional_half_is_the_empty_context(pipeline):
    """Guidance between two equal halves is no guidance."""
    empty = empty_context()[None]
    plain = pipeline.generate(contexts=empty, seed=1, sampling=GUIDED, guidance=1.0)
    assert_near(pipeline.generate(contexts=empty, seed=1, sampling=GUIDED).latents, plain.latents, SAME_ENGINES)
    other = pipeline.generate(prompts=["red"], seed=1, sampling=GUIDED).latents
    unguided = pipeline.generate(prompts=["red"], seed=1, sampling=GUIDED, guidance=1.0).latents
    assert np.linalg.norm(other - unguided) > 0.01 * np.linalg.norm(other)


def test_prompts_that_were_cut_are_named(pipeline):
    result = pipeline.generate(prompts=["red", "two two two two red", "two two"], seed=1, sampling="plain")
    assert result.truncated == (1,)
    assert result.labels.tolist() == [-1, -1, -1]
    assert pipeline.generate(contexts=empty_context()[None], seed=1, sampling="plain").truncated == ()


def test_a_recipe_of_a_prompt_makes_the_image_again(pipeline, tmp_path):
    result = pipeline.generate(prompts=["two", "red \U0001f600"], seed=9, sampling=GUIDED)
    paths = result.save(tmp_path / "images")
    assert [path.name for path in paths] == ["9-00000-text.png", "9-00001-text.png"]
    for image, path in zip(result.images, paths, strict=True):
        (recipe,) = read_recipes(path)
        again = pipeline.generate(**recipe.request())
        np.testing.assert_array_equal(again.images[0], image)
    assert (recipe.prompt, recipe.label, recipe.context_sha256) == ("red \U0001f600", None, None)
    assert recipe.to_dict()["prompt"] == "red \U0001f600" and "context_sha256" not in recipe.to_dict()


def test_a_recipe_of_a_context_takes_that_context(pipeline, contexts):
    (recipe,) = pipeline.generate(contexts=contexts[1:2], seed=9, sampling=GUIDED).recipes
    assert recipe.context_sha256 == hashlib.sha256(contexts[1].astype("<f4").tobytes()).hexdigest()
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())), "a test") == recipe
    same(
        pipeline.generate(**recipe.context_request(contexts[1])),
        pipeline.generate(contexts=contexts[1:2], seed=9, sampling=GUIDED),
    )
    with pytest.raises(InputError, match="the context is not the one that the image was made from"):
        recipe.context_request(contexts[2])
    with pytest.raises(InputError, match="made from a context, not from a prompt; use context_request"):
        recipe.request()
    (prompted,) = pipeline.generate(prompts=["red"], seed=9, sampling=GUIDED).recipes
    with pytest.raises(InputError, match="not made from a context; use request"):
        prompted.context_request(contexts[1])
    with pytest.raises(InputError, match="prompt is 3, which is no text"):
        Recipe.from_dict(prompted.to_dict() | {"prompt": 3}, "a test")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "nothing is given to say what to generate; give prompts, or contexts"),
        ({"prompts": ["red"], "labels": [1]}, "labels and prompts are given to say what"),
        (
            {"labels": [1]},
            "labels are given, but this bundle's model makes images from text; give prompts, or contexts",
        ),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": "red"}, "prompts is 'red'; give a list of texts"),
        ({"prompts": ["red", 7]}, "prompt 1 is 7, which is not text"),
        ({"prompts": ["a <|endoftext|> b"]}, r"holds <\|endoftext\|>"),
        ({"contexts": np.zeros((2, K, WC + 1), np.float32)}, r"contexts has shape \(2, 6, 6\); give float32"),
        ({"contexts": np.zeros((0, K, WC), np.float32)}, "of at least one image"),
        ({"contexts": np.zeros((1, K, WC), np.int64)}, "contexts is of type int64"),
        ({"contexts": "red"}, "contexts is of type <U3"),
        ({"contexts": np.full((1, K, WC), np.nan)}, "context 0 holds values that are not finite"),
    ],
)
def test_what_a_text_bundle_refuses(pipeline, given, sentence):
    with pytest.raises(InputError, match=sentence):
        pipeline.generate(**given, seed=1)


def test_a_bundle_of_classes_refuses_texts(bundle_path):
    pipeline = Pipeline.load(bundle_path)
    for given in ({"prompts": ["red"]}, {"contexts": np.zeros((1, K, WC), np.float32)}):
        with pytest.raises(InputError, match="this bundle's model makes images of classes; give labels"):
            pipeline.generate(**given)
    with pytest.raises(InputError, match="nothing is given to say what to generate; give labels"):
        pipeline.generate()


def test_a_bundle_without_a_text_encoder_takes_contexts_alone(tmp_path, pipeline, contexts):
    alone = Pipeline.load(write_text_bundle(tmp_path / "bundle", encoder=False))
    same(
        alone.generate(contexts=contexts, seed=3, sampling=GUIDED),
        pipeline.generate(prompts=PROMPTS, seed=3, sampling=GUIDED),
    )
    with pytest.raises(InputError, match="has no text_encoder, so it takes contexts, not prompts"):
        alone.generate(prompts=["red"])


def test_the_text_encoder_is_loaded_when_a_prompt_comes(tiny_text_path):
    bundle = Bundle.open(tiny_text_path)
    networks = load_networks(bundle, Device("cpu"), 1)
    pipeline = Pipeline(bundle, networks)
    pipeline.generate(contexts=empty_context()[None], sampling="plain")
    assert networks["text_encoder"]._engine is None
    pipeline.generate(prompts=["red"], sampling="plain")
    assert networks["text_encoder"]._engine is not None


def test_a_text_encoder_that_gives_no_numbers_is_an_error(tmp_path):
    broken = Pipeline.load(write_text_bundle(tmp_path / "bundle", poison={"text_encoder": np.nan}))
    with pytest.raises(EngineError, match="text_encoder returned values that are not finite"):
        broken.generate(prompts=["red"], sampling="plain")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m["model"].pop("empty_context"), "lacks model.empty_context"),
        (lambda m: m["model"].update(classes=3), "model.classes is 3, but model.context is 'text'"),
        (lambda m: m["model"].update(context="image"), "model.context is 'image'; this himar knows 'class', 'text'"),
        (lambda m: m["model"].pop("context_width"), "lacks model.context_width"),
        (lambda m: m["model"]["empty_context"].update(sha256="0" * 64), "model.empty_context.sha256 is not the sha256"),
        (lambda m: m["model"]["empty_context"].update(file="../x"), "leads out of the bundle"),
        (lambda m: m["model"]["empty_context"].update(file="x"), "names x, but gives no hash"),
        (lambda m: m["model"].update(context_width=WC + 1), "has 120 bytes, but model.empty_context of shape"),
        (lambda m: m.pop("tokenizer"), "has a text_encoder, but lacks tokenizer"),
        (
            lambda m: m["tokenizer"].update(length=K + 1),
            "tokenizer.length is 7, but the model takes contexts of 6 rows",
        ),
        (lambda m: m["tokenizer"]["sha256"].update(merges="0"), "tokenizer.sha256.merges is not the sha256 of"),
        (lambda m: m["files"].pop("tokenizer/merges.txt"), "names tokenizer/merges.txt, but gives no hash"),
        (lambda m: m.update(schema_version="6.0"), r"has schema version 6.0, but this himar reads versions up to 5.x"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, edit_manifest, change, sentence):
    folder = write_text_bundle(tmp_path / "bundle")
    edit_manifest(folder, change)
    with pytest.raises(BundleError, match=sentence):
        Pipeline.load(folder)
