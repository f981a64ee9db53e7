"""What a service relies on: same seed same image, clear refusals, cancellation, lanes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_kernels import EngineError, InputError, PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig
from himar_runtime import Pipeline, Progress, Result
from tests.closeness import SAME_ENGINES, assert_near, assert_same_pixels

LABELS = [0, 4, 2, 1, 3, 3, 0]


@pytest.fixture(scope="module")
def pipeline(bundle_path: Path) -> Pipeline:
    return Pipeline.load(bundle_path, threads=1)


def _same(result: Result, expected: Result, of: slice = slice(None)) -> None:
    for found, wanted in (
        (result.latents, expected.latents[of]),
        (result.low_latents, expected.low_latents[of]),
    ):
        assert_near(found, wanted, SAME_ENGINES)
    assert result.images is not None and expected.images is not None
    assert_same_pixels(result.images, expected.images[of])


def test_shapes_types_and_the_default_setting(pipeline: Pipeline) -> None:
    result = pipeline.generate(LABELS, seed=3)
    assert result.images is not None
    assert result.images.shape == (7, 16, 16, 3)
    assert result.images.dtype == np.uint8
    assert result.latents.shape == (7, 2, 4, 4)
    assert result.low_latents.shape == (7, 2, 2, 2)
    assert result.latents.dtype == result.low_latents.dtype == np.float32
    assert result.labels.tolist() == LABELS
    assert result.status == "complete"
    assert len(np.unique(result.images)) > 20
    assert [recipe.index for recipe in result.recipes] == list(range(7))
    assert result.recipes[0].sampling.low_steps == 3


def test_batches_chunks_and_first_index_do_not_change_an_image(pipeline: Pipeline, make_bundle: Any) -> None:
    together = pipeline.generate(LABELS, seed=2**64 - 1)
    small = Pipeline.load(make_bundle(max_batch=2), threads=1)
    _same(small.generate(LABELS, seed=2**64 - 1), together)
    for image in (0, 5):
        one = pipeline.generate(LABELS[image : image + 1], seed=2**64 - 1, first_index=image)
        _same(one, together, slice(image, image + 1))
    _same(pipeline.generate(LABELS[2:5], draws=PhiloxDraws(2**64 - 1), first_index=2), together, slice(2, 5))


def test_a_seed_for_each_image_makes_what_each_alone_makes(pipeline: Pipeline, make_bundle: Any) -> None:
    seeds = [5, 2**64 - 1, 5, 0, 1, 2, 3]
    chunked = Pipeline.load(make_bundle(max_batch=3), threads=1)
    for each in (pipeline, chunked):
        together = each.generate(LABELS, seeds=seeds, first_index=4)
        for image, (label, seed) in enumerate(zip(LABELS, seeds, strict=True)):
            _same(each.generate([label], seed=seed, first_index=4), together, slice(image, image + 1))
        assert [(recipe.seed, recipe.index) for recipe in together.recipes] == [(seed, 4) for seed in seeds]
        _same(each.generate(**together.recipes[1].request()), together, slice(1, 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": [1]}, "1 seeds are given for 2 images; give one for each"),
        ({"seeds": [1, 2], "seed": 3}, "both seeds and seed are given; give one of them"),
        ({"seeds": [1, 2], "draws": PhiloxDraws(3)}, "both seeds and draws are given"),
        ({"seeds": [1, 2.5]}, "seed is 2.5; it must be a whole number from 0"),
        ({"seeds": [1, 2], "first_index": -1}, "first_index is -1"),
    ],
)
def test_seeds_that_do_not_fit_the_images_are_refused(pipeline: Pipeline, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.generate([1, 2], **given)


def test_seeds_labels_and_settings_all_matter(pipeline: Pipeline) -> None:
    base = pipeline.generate([1], seed=0)
    assert np.array_equal(base.latents, pipeline.generate([1]).latents)
    for changed in (
        {"seed": 1},
        {"first_index": 1},
        {"sampling": "plain"},
        {"guidance": 3.0},
        {"low_guidance": 1.0},
        {"high_guidance": 1.0},
        {"low_steps": 4},
        {"high_steps": 3},
        {"low_diffusion_steps": 6},
        {"high_diffusion_steps": 5},
        {"low_solver": "ddim"},
        {"high_solver": "dpm++"},
        {"guidance_schedule": "constant"},
        {"temperature": 0.5},
    ):
        other = pipeline.generate([1], **{"seed": 0, **changed})
        assert not np.array_equal(other.latents, base.latents), changed
    assert not np.array_equal(pipeline.generate([2], seed=0).latents, base.latents)


def test_settings_by_name_by_value_and_by_single_values_agree(pipeline: Pipeline) -> None:
    named = pipeline.generate([1, 2], sampling="plain", guidance=1.5, high_guidance=2.5)
    own = SamplingConfig(
        low_steps=4,
        high_steps=1,
        low_guidance=1.5,
        high_guidance=2.5,
        low_diffusion_steps=3,
        high_diffusion_steps=3,
    )
    assert named.recipes[0].sampling == own
    assert np.array_equal(named.latents, pipeline.generate([1, 2], sampling=own).latents)


def test_numpy_labels_are_labels(pipeline: Pipeline) -> None:
    expected = pipeline.generate([1, 2]).latents
    for dtype in (np.int64, np.uint8):
        assert np.array_equal(pipeline.generate(np.array([1, 2], dtype)).latents, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "labels is empty; give at least one"),
        ({"labels": 3}, "labels is 3; give a list"),
        ({"labels": "12"}, "labels is '12'; give a list"),
        ({"labels": [1, 5]}, r"label 5 \(number 1 of the list\) is not a class .* 0 to 4"),
        ({"labels": [-1]}, "label -1 .* 0 to 4"),
        ({"labels": [1.0]}, r"label 1\.0 .* 0 to 4"),
        ({"labels": [True]}, "label True .* 0 to 4"),
        ({"labels": ["1"]}, "label '1' .* 0 to 4"),
        ({"labels": np.array([[1, 2]])}, "label array.* 0 to 4"),
        ({"guidance": float("nan")}, "low_guidance is nan; it must be a number from 0 to 1000000"),
        ({"high_guidance": float("inf")}, "high_guidance is inf"),
        ({"high_guidance": 10**400}, "high_guidance is inf"),
        ({"guidance": -1.0}, r"low_guidance is -1\.0"),
        ({"guidance": "2"}, "low_guidance is '2'; it must be a number"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"low_steps": 0}, "low_steps is 0; it must be at least 1"),
        ({"low_steps": 5}, "low_steps is 5, but phase low has only 4 positions; ask for 1 to 4"),
        ({"high_steps": 17}, "high_steps is 17, but phase high has only 16 positions"),
        ({"low_diffusion_steps": 1}, "low_diffusion_steps is 1; it must be 2 to 1000"),
        ({"high_diffusion_steps": 1001}, "high_diffusion_steps is 1001"),
        ({"low_solver": "euler"}, "low_solver is 'euler'; it must be 'ddpm', 'ddim' or"),
        (
            {"low_solver": "ddim", "high_solver": "ddim", "temperature": 0.5},
            r"temperature is 0\.5, but it scales the noise",
        ),
        ({"guidance_schedule": "cosine"}, "guidance_schedule is 'cosine'"),
        ({"sampling": "best"}, "sampling 'best' is not in this bundle; it has default, plain"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1, "draws": PhiloxDraws(1)}, "both seed 1 and draws are given"),
        ({"first_index": -1}, "first_index is -1"),
        ({"first_index": 2**32}, "first_index is 4294967296; it must be 0 to 4294967295"),
        ({"first_index": 1.5}, r"first_index is 1\.5"),
    ],
)
def test_bad_requests_name_the_value(pipeline: Pipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.generate(**{"labels": [1], **arguments})
    assert pipeline.generate([1]).status == "complete"


def test_progress_counts_over_chunks(make_bundle: Any) -> None:
    events: list[Progress] = []
    Pipeline.load(make_bundle(max_batch=2), threads=1).generate([1, 2, 3], on_step=events.append)
    assert [event.done for event in events] == list(range(1, 11))
    assert {event.total for event in events} == {10}
    assert [(event.phase, event.step) for event in events[:5]] == [
        *(("low", step) for step in range(3)),
        *(("high", step) for step in range(2)),
    ]
    assert [event.images for event in events] == [2] * 5 + [1] * 5


def test_cancelling_keeps_what_is_finished(make_bundle: Any) -> None:
    pipeline = Pipeline.load(make_bundle(max_batch=2), threads=1)
    whole = pipeline.generate([1, 2, 3], seed=5)
    result = pipeline.generate([1, 2, 3], seed=5, on_step=lambda event: event.done < 7)
    assert result.status == "cancelled"
    assert result.labels.tolist() == [1, 2]
    assert len(result.recipes) == 2
    _same(result, whole, slice(2))
    nothing = pipeline.generate([1, 2, 3], seed=5, on_step=lambda event: False)
    assert nothing.status == "cancelled"
    assert nothing.images is not None
    assert nothing.images.shape == (0, 16, 16, 3)
    assert nothing.latents.shape == (0, 2, 4, 4)
    assert nothing.recipes == ()
    _same(pipeline.generate([1, 2, 3], seed=5), whole)


def test_an_error_in_the_callback_reaches_the_caller_and_leaves_the_pipeline_usable(pipeline: Pipeline) -> None:
    def fail(event: Progress) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        pipeline.generate([1], on_step=fail)
    assert pipeline.generate([1]).status == "complete"


def test_generating_inside_the_callback_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="from its own on_step; call it on a clone"):
        pipeline.generate([1], on_step=lambda event: bool(pipeline.generate([2])))


@pytest.mark.parametrize("component", ["transformer_low", "mlp_head", "transformer_high", "dit_head"])
def test_nan_names_the_component_the_phase_and_the_step(make_bundle: Any, component: str) -> None:
    pipeline = Pipeline.load(make_bundle(poison={component: float("nan")}), threads=1)
    phase = "low" if component in ("transformer_low", "mlp_head") else "high"
    # The transformers' poisoned weight is the embedding of class 0.
    with pytest.raises(EngineError, match=rf"{component} returned values .* not finite in phase {phase}, step 0"):
        pipeline.generate([0])


def test_nan_from_the_decoder(make_bundle: Any) -> None:
    pipeline = Pipeline.load(make_bundle(poison={"vae_decoder": float("nan")}), threads=1)
    with pytest.raises(EngineError, match="vae_decoder returned values that are not finite"):
        pipeline.generate([0])


def test_four_lanes_give_what_one_gives(pipeline: Pipeline) -> None:
    serial = [pipeline.generate([seed % 5, 1], seed=seed) for seed in range(8)]
    lanes = [pipeline.clone() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        parallel = list(threads.map(lambda seed: lanes[seed % 4].generate([seed % 5, 1], seed=seed), range(8)))
    for result, expected in zip(parallel, serial, strict=True):
        assert np.array_equal(result.latents, expected.latents)
        assert np.array_equal(result.images, expected.images)


def test_calls_on_one_pipeline_wait_for_each_other(pipeline: Pipeline) -> None:
    serial = [pipeline.generate([1], seed=seed).latents for seed in range(4)]
    inside = threading.Semaphore(1)

    def alone(event: Progress) -> None:
        if event.done == 1:
            assert inside.acquire(blocking=False)
        if event.done == event.total:
            inside.release()

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda seed: pipeline.generate([1], seed=seed, on_step=alone), range(4)))
    assert all(np.array_equal(result.latents, wanted) for result, wanted in zip(found, serial, strict=True))
