"""The C++ runtime must make Python's images and say Python's sentences: same bundle, same seed, same recipes."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_kernels import BundleError, ImageDraws, InputError
from himar_runtime import Pipeline, Result
from tests.closeness import RUN, assert_near, assert_same_pixels
from tests.export.test_same_image import CHEAPER, SHORT


def assert_same_images(library: Any, bundle: Path, labels: list[int], seed: int, **options: Any) -> None:
    wanted = Pipeline.load(bundle, threads=1).generate(labels, seed=seed, **options)
    assert_same(library.generate(bundle, labels, seed=seed, **options), wanted)


def assert_same(found: Any, wanted: Result) -> None:
    for ours, theirs in ((found.latents, wanted.latents), (found.low_latents, wanted.low_latents)):
        assert_near(ours, theirs, RUN)
    assert (found.images is None) == (wanted.images is None)
    if wanted.images is not None:
        assert_same_pixels(found.images, wanted.images)
    assert [json.loads(recipe) for recipe in found.recipes] == [recipe.to_dict() for recipe in wanted.recipes]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance": 1.0},
        {"low_guidance": 3.0, "high_guidance": 1.0, "temperature": 0.7, "low_steps": 4, "high_diffusion_steps": 9},
        {"first_index": 2**32 - 7},
        {"low_solver": "dpm++", "temperature": 0.7},
        {"low_solver": "ddim", "high_solver": "dpm++", "guidance": 1.0, "guidance_schedule": "constant"},
    ],
    ids=lambda options: ",".join(options) or "defaults",
)
def test_tiny_bundle_gives_pythons_images(library: Any, bundle_path: Path, options: dict[str, Any]) -> None:
    assert_same_images(library, bundle_path, [3, 0, 4, 1, 1, 2, 0], 11, **options)


def test_images_of_seeds_and_indices_of_their_own_are_pythons(library: Any, bundle_path: Path) -> None:
    """Python takes indices of each image from draws alone."""
    labels, seeds, indices = [3, 0, 4, 1], [11, 2**64 - 1, 11, 0], [0, 5, 2**32 - 1, 0]
    python = Pipeline.load(bundle_path, threads=1)
    assert_same(
        library.generate(bundle_path, labels, seeds=seeds, first_index=3),
        python.generate(labels, seeds=seeds, first_index=3),
    )
    wanted = python.generate(labels, draws=ImageDraws(seeds, indices))
    assert_same(library.generate(bundle_path, labels, seeds=seeds, indices=indices), wanted)
    for options in ({"seeds": seeds, "seed": 5}, {"seeds": seeds[1:]}):
        with pytest.raises(InputError) as said:
            python.generate(labels, **options)
        with pytest.raises(RuntimeError, match=f"^{re.escape(str(said.value))}$"):
            library.generate(bundle_path, labels, **options)


def test_digits_give_pythons_images(library: Any, digits_bundle: Path) -> None:
    assert_same_images(library, digits_bundle, [3, 7], 2**63 + 5)


def test_digits_by_solvers_are_pythons_images(library: Any, digits_bundle: Path) -> None:
    short = {"low_steps": 4, "high_steps": 1, "low_diffusion_steps": 6, "high_diffusion_steps": 6, "temperature": 1.0}
    assert_same_images(library, digits_bundle, [3, 7], 5, low_solver="ddim", high_solver="dpm++", **short)


@pytest.mark.parametrize("name", CHEAPER)
def test_digits_of_chains_that_leave_evaluations_out_are_pythons(library: Any, digits_bundle: Path, name: str) -> None:
    assert_same_images(library, digits_bundle, [3, 7, 1], 5, temperature=1.0, **SHORT, **CHEAPER[name])


HELD: dict[str, dict[str, Any]] = {
    "alone": {},
    "forecast": {"high_forecast": 4},
    "groups that start with one half": {"guidance_interval": 2, "modulation_interval": 3},
    "without guidance": {"high_guidance": 1.0},
}


@pytest.mark.parametrize("name", HELD)
def test_digits_whose_modulations_are_held_are_pythons(library: Any, held_bundle: Path, name: str) -> None:
    chains = {"low_diffusion_steps": 12, "high_diffusion_steps": 30}
    options = {"temperature": 1.0, "modulation_interval": 2, **chains, **SHORT, **HELD[name]}
    assert_same_images(library, held_bundle, [3, 7, 1], 5, **options)


@pytest.mark.parametrize("precision", [(), ("--fp16",)], ids=str)
def test_dit_heads_of_both_phases_hold_theirs_in_both_precisions(
    library: Any, build_variant: Any, precision: tuple[str, ...]
) -> None:
    bundle = build_variant("dit-both", "--held-modulations", *precision)
    chains = {"low_diffusion_steps": 6, "high_diffusion_steps": 5, "low_solver": "dpm++", "high_solver": "dpm++"}
    options = {"low_steps": 2, "high_steps": 2, "guidance": 1.5, "temperature": 1.0, **chains}
    assert_same_images(library, bundle, [2, 0, 1], 5, modulation_interval=3, **options)


def test_threads_do_not_change_the_images(library: Any, digits_bundle: Path) -> None:
    """With two threads its heads and decoder split their rows, in both runtimes."""
    labels, options = [3, 7] * 4, {"seed": 4, "low_steps": 2, "high_steps": 1}
    wanted = Pipeline.load(digits_bundle, threads=2).generate(labels, **options)
    for threads in (1, 2):
        found = library.generate(digits_bundle, labels, threads=threads, **options)
        assert np.linalg.norm(found.latents - wanted.latents) <= 1e-4 * np.linalg.norm(wanted.latents)
        assert np.abs(found.images.astype(int) - wanted.images).max() <= 1


def test_named_settings_with_solvers_are_pythons(library: Any, make_bundle: Any, edit_manifest: Any) -> None:
    quick = {"low_steps": 2, "low_diffusion_steps": 4, "low_solver": "dpm++", "high_solver": "ddim"}
    apart, first = make_bundle("apart"), make_bundle("first")
    edit_manifest(apart, lambda m: m.update(schema_version="1.2", solver_sampling={"quick": quick}))
    edit_manifest(first, lambda m: m.update(schema_version="2.0", sampling={"quick": quick, **m["sampling"]}))
    assert_same_images(library, apart, [1, 4], 3, sampling="quick")
    assert_same_images(library, first, [1, 4], 3)


def test_named_settings_that_leave_evaluations_out_are_pythons(
    library: Any, make_bundle: Any, edit_manifest: Any
) -> None:
    eighth = {"low_steps": 2, "high_steps": 2, "low_diffusion_steps": 20, "low_forecast": 8, "guidance_interval": 2}
    listed = {"low_steps": 2, "high_steps": 2, "high_diffusion_counts": [12, 5], "low_guidances": [1, 2]}
    apart, first = make_bundle("apart"), make_bundle("first")
    further = {"eighth": eighth, "listed": listed}
    edit_manifest(apart, lambda m: m.update(schema_version="1.3", forecast_sampling=further))
    edit_manifest(first, lambda m: m.update(schema_version="5.0", sampling={"eighth": eighth, **m["sampling"]}))
    for name in further:
        assert_same_images(library, apart, [1, 4], 3, sampling=name)
    assert_same_images(library, apart, [1, 4], 3, sampling="listed", high_diffusion_steps=6)  # its list goes
    assert_same_images(library, first, [1, 4], 3)


def test_digits_in_half_precision_give_pythons_images(library: Any, digits_fp16_bundle: Path) -> None:
    """Its rounding magnifies any last bit that differs, so this holds only while both loops round alike."""
    assert_same_images(library, digits_fp16_bundle, [3, 7], 1)


def test_digits_in_int8_give_pythons_images(library: Any, digits_int8_bundle: Path) -> None:
    assert_same_images(library, digits_int8_bundle, [3, 7], 1)
    assert_same_images(library, digits_int8_bundle, [3, 7], 1, sampling="fast")


def test_the_released_layout_gives_pythons_images(library: Any, narrow_128_bundle: Path) -> None:
    short = {"low_steps": 3, "high_steps": 2, "low_diffusion_steps": 12, "high_diffusion_steps": 12}
    assert_same_images(library, narrow_128_bundle, [5, 0], 3, guidance=2.0, **short)


def test_previews_are_pythons(library: Any, digits_bundle: Path) -> None:
    wanted: list[np.ndarray] = []
    Pipeline.load(digits_bundle, threads=1).generate([3, 7], seed=2, on_step=lambda step: wanted.append(step.preview()))
    found = library.previews(digits_bundle, [3, 7], seed=2)
    assert len(found) == len(wanted) == 10
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape == (2, 16, 16, 3)
        assert_same_pixels(ours, theirs)


def test_images_so_far_are_pythons(library: Any, digits_bundle: Path) -> None:
    wanted: list[np.ndarray] = []
    Pipeline.load(digits_bundle, threads=1).generate([3, 7], seed=2, on_step=lambda step: wanted.append(step.so_far()))
    found = library.previews(digits_bundle, [3, 7], of="so_far", seed=2)
    assert {image.shape[1] for image in wanted} == {16, 32}
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert_same_pixels(ours, theirs)


def test_stages_have_their_seconds(library: Any, bundle_path: Path) -> None:
    pauses = library.callback(lambda step: time.sleep(0.1))
    seconds = library.generate(bundle_path, [1], on_step=pauses).stage_seconds
    assert len(seconds) == 3 and all(0 < each < 0.1 for each in seconds)  # low, high, decode; not what on_step takes
    assert library.generate(bundle_path, [1]).stage_seconds == []


def test_refusals_are_pythons_sentences(library: Any, make_bundle: Any, edit_manifest: Any) -> None:
    changes = {
        "schema": lambda m: m.update(schema_version="6.0"),
        "path": lambda m: m.update(selftest="../selftest.npz"),
        "lacks": lambda m: m["model"].pop("width"),
        "setting": lambda m: m["sampling"]["plain"].update(low_steps=0),
        "solver": lambda m: m["sampling"]["plain"].update(low_solver="euler"),
        "twice": lambda m: m.update(solver_sampling={"plain": {"high_solver": "ddim"}}),
        "thrice": lambda m: m.update(forecast_sampling={"plain": {"high_forecast": 2}}),
        "interval": lambda m: m.update(forecast_sampling={"cheap": {"high_forecast": 0}}),
        "unsaid": lambda m: m["sampling"]["plain"].update(forecast_order=0),
        "wide": lambda m: m["sampling"]["plain"].update(low_forecast=9, high_forecast=9, forecast_order=2),
        "length": lambda m: m["sampling"]["plain"].update(low_steps=3, low_guidances=[1, 2]),
        "count": lambda m: m["sampling"]["plain"].update(low_steps=2, low_diffusion_counts=[9, 1]),
        "hash": lambda m: m["files"]["dit_head.onnx"].update(sha256="0" * 64),
        "size": lambda m: m["files"]["dit_head.onnx"].update(bytes=3),
        "component": lambda m: m["components"].pop("dit_head"),
    }
    for name, change in changes.items():
        path = make_bundle(name)
        edit_manifest(path, change)
        with pytest.raises(BundleError) as theirs:
            Pipeline.load(path)
        with pytest.raises(RuntimeError) as ours:
            library.generate(path, [1])
        assert str(ours.value) == str(theirs.value)


def test_refused_requests_are_pythons_sentences(library: Any, bundle_path: Path) -> None:
    pipeline = Pipeline.load(bundle_path)
    no_noise = {"low_solver": "dpm++", "high_solver": "ddim", "temperature": 0.9}
    for labels, options in (
        ([], {}), ([5], {}), ([1], {"low_steps": 9}), ([1], {"temperature": -1.0}), ([1], no_noise),
        ([1], {"sampling": "best"}), ([1], {"high_forecast": 1001}), ([1], {"forecast_first": 5}),
        ([1], {"high_forecast": 5, "forecast_order": 2}), ([1], {"forecast_order": 3, "low_forecast": 2}),
        ([1], {"low_steps": 2, "low_guidances": [1.0]}), ([1], {"low_steps": 2, "low_diffusion_counts": [5, 1.5]}),
        ([1], {"high_guidances": [-1.0]}), ([1], {"least_guidance": -0.5}),
        ([1], {"modulation_interval": 1001}), ([1], {"modulation_interval": 3}),
    ):  # fmt: skip
        with pytest.raises(InputError) as theirs:
            pipeline.generate(labels, **options)
        with pytest.raises(RuntimeError) as ours:
            library.generate(bundle_path, labels, **options)
        assert str(ours.value) == str(theirs.value)
