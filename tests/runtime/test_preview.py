"""Whoever waits for images can look at what there is so far, at no cost for whoever does not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_kernels import EngineError, InputError
from himar_runtime import Pipeline, Progress
from himar_runtime.families.family import runtime_family


def _collect(pipeline: Pipeline, labels: list[int]) -> tuple[list[Any], list[Any], Any]:
    pixels, latents = [], []

    def look(step: Progress) -> None:
        pixels.append(step.preview())
        latents.append(step.low_latents())

    return pixels, latents, pipeline.generate(labels, seed=5, on_step=look)


def test_previews_fill_up_with_the_low_phase_and_change_no_image(make_bundle: Any) -> None:
    pipeline = Pipeline.load(make_bundle(max_batch=4), threads=1)
    pixels, latents, result = _collect(pipeline, [3, 0, 4, 1, 2])
    assert [(p.shape, p.dtype) for p in pixels] == [((3, 8, 8, 3), np.uint8)] * 5 + [((2, 8, 8, 3), np.uint8)] * 5
    revealed = [int((low != 0).any(axis=1).sum()) for low in latents[:5]]
    assert revealed[0] < revealed[1] < revealed[2] == revealed[4] == 3 * 4
    assert not np.array_equal(pixels[1], pixels[2])
    assert np.array_equal(pixels[2], pixels[4])
    np.testing.assert_array_equal(np.concatenate([latents[4], latents[9]]), result.low_latents)
    again = pipeline.generate([3, 0, 4, 1, 2], seed=5)
    assert np.array_equal(again.images, result.images)


def test_a_bundle_without_a_decoder_has_low_latents_only(make_bundle: Any) -> None:
    pipeline = Pipeline.load(make_bundle(decoder=False), threads=1)
    seen: list[tuple[int, ...]] = []

    def look(step: Progress) -> bool:
        seen.append(step.low_latents().shape)
        with pytest.raises(InputError, match="no VAE decoder, so there is no preview in pixels"):
            step.preview()
        return False

    assert pipeline.generate([1], on_step=look).status == "cancelled"
    assert seen == [(1, 2, 2, 2)]


@pytest.mark.parametrize("where", ["shape", "profile"])
def test_a_decoder_of_one_size_refuses_and_the_images_still_come(
    make_bundle: Any, edit_manifest: Any, where: str
) -> None:
    def fix(manifest: dict[str, Any]) -> None:
        decoder = manifest["components"]["vae_decoder"]
        if where == "shape":
            decoder["inputs"][0]["shape"][2:] = [4, 4]
        else:
            decoder["profile"]["height"] = [4, 4, 4]

    path: Path = make_bundle()
    edit_manifest(path, fix)
    asked = 0

    def look(step: Progress) -> None:
        nonlocal asked
        with pytest.raises(EngineError, match="does not take latents of 2 by 2, so there is no preview"):
            step.preview()
        asked += 1

    assert Pipeline.load(path, threads=1).generate([1], on_step=look).status == "complete"
    assert asked == 5


def test_a_preview_that_is_not_finite_is_an_error_of_the_preview(make_bundle: Any) -> None:
    pipeline = Pipeline.load(make_bundle(poison={"vae_decoder": float("nan")}), threads=1)

    def look(step: Progress) -> bool:
        with pytest.raises(EngineError, match="vae_decoder returned values that are not finite"):
            step.preview()
        return False

    assert pipeline.generate([1], on_step=look).status == "cancelled"


def test_a_progress_of_no_generation_has_no_preview() -> None:
    with pytest.raises(InputError, match="belongs to no generation"):
        Progress("low", 0, 1, 5, 1).preview()


@pytest.mark.parametrize(
    ("event", "text"),
    [(Progress("low", 3, 4, 10, 2), "phase low, step 4"), (Progress("scale 3", 0, 3, 10, 2), "scale 3")],
)
def test_a_step_says_which_one_it_was(event: Progress, text: str) -> None:
    assert str(event) == text


def test_images_so_far_grow_to_full_size_with_phase_high(make_bundle: Any) -> None:
    pipeline = Pipeline.load(make_bundle(), threads=1)
    seen: list[tuple[str, Any]] = []
    result = pipeline.generate(
        [3, 0], seed=5, on_step=lambda step: seen.append((step.phase, step.so_far())), low_steps=3, high_steps=3
    )
    assert [(phase, image.shape) for phase, image in seen] == (
        [("low", (2, 8, 8, 3))] * 3 + [("high", (2, 16, 16, 3))] * 3
    )
    images = [image for _, image in seen]
    assert np.array_equal(images[5], result.images) and not np.array_equal(images[3], images[5])
    assert np.array_equal(pipeline.generate([3, 0], seed=5, low_steps=3, high_steps=3).images, result.images)
    manifest = pipeline.bundle.manifest
    sampling = result.recipes[0].sampling
    assert list(runtime_family("hi_mar").shown(manifest.model, sampling)) == [3, 4, 5]


def test_hmar_shows_every_scale_in_full_size(tiny_hmar_path: Path) -> None:
    pipeline = Pipeline.load(tiny_hmar_path, threads=1)
    seen: list[Any] = []
    result = pipeline.generate([1], seed=5, on_step=lambda step: seen.append((step.so_far(), step.preview())))
    assert all(np.array_equal(*pair) and pair[0].shape == result.images.shape for pair in seen)
    assert np.array_equal(seen[-1][0], result.images)
    shown = runtime_family("hmar").shown(pipeline.bundle.manifest.model, result.recipes[0].sampling)
    assert list(shown) == list(range(1, len(seen)))


def test_seconds_are_of_each_phase_without_the_callbacks(make_bundle: Any) -> None:
    pipeline = Pipeline.load(make_bundle(max_batch=2), threads=1)
    start = time.perf_counter()
    result = pipeline.generate([3, 0, 1], seed=5, on_step=lambda step: time.sleep(0.05))
    took = time.perf_counter() - start
    assert list(result.seconds) == ["low", "high", "decode"]
    assert all(seconds > 0 for seconds in result.seconds.values())
    assert sum(result.seconds.values()) <= took - 10 * 0.05
    assert pipeline.generate([3], seed=5).seconds == {}
