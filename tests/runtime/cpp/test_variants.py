"""Every variant that Python runs, the C++ runtime runs too: the paper's six, and MAR, with each source of draws."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar.families.hi_mar.presets import VARIANTS
from himar_kernels import BundleError, InputError, PhiloxDraws
from himar_kernels.families.hi_mar import Phase
from himar_runtime import Pipeline

LABELS = [2, 0, 1, 1]  # more than the bundles' max_batch of 3
MAR: dict[str, Any] = {"high_steps": 16, "high_diffusion_steps": 9, "high_guidance": 2.5}
"""One token per step, as MAR generates."""

RUNS: dict[str, dict[str, Any]] = {
    "guided": {},
    "unguided": {"guidance": 1.0, "temperature": 0.8},
    "solvers": {"low_solver": "ddim", "high_solver": "dpm++", "guidance_schedule": "constant"},
    "forecasts": {"low_forecast": 3, "high_forecast": 4, "forecast_first": 2, "guidance_interval": 2},
}


class SpokenDraws:
    """Philox's draws by another name: what a caller gives instead of a seed. Notes the orders."""

    def __init__(self, seed: int) -> None:
        self._draws = PhiloxDraws(seed)
        self.initial_noise, self.noise = self._draws.initial_noise, self._draws.noise
        self.orders: list[tuple[Phase, list[int], list[list[int]]]] = []

    def order(self, phase: Phase, positions: int, images: Any) -> Any:
        order = self._draws.order(phase, positions, images)
        self.orders.append((phase, images.tolist(), order.tolist()))
        return order


def options_of(variant: str, run: str) -> dict[str, Any]:
    options = RUNS[run] | (MAR if variant == "mar" else {})
    if "guidance" in options:
        options.pop("high_guidance", None)
    if variant in ("mar", "single-scale"):
        options = {name: value for name, value in options.items() if not name.startswith("low_")}
    return options


def assert_close(found: Any, wanted: Any) -> None:
    for ours, theirs in ((found.latents, wanted.latents), (found.low_latents, wanted.low_latents)):
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*VARIANTS, "mar"])
def test_a_variant_gives_pythons_latents(library: Any, build_variant: Any, variant: str) -> None:
    bundle = build_variant("single-scale" if variant == "mar" else variant)
    python = Pipeline.load(bundle, threads=1)
    for run in RUNS:
        options = options_of(variant, run)
        wanted = python.generate(LABELS, seed=9, first_index=5, **options)
        found = library.generate(bundle, LABELS, seed=9, first_index=5, **options)
        assert_close(found, wanted)
        assert [json.loads(recipe) for recipe in found.recipes] == [recipe.to_dict() for recipe in wanted.recipes]
    # Draws of the caller's: both ask for the same orders, and the same noise gives the same latents.
    ours, theirs = SpokenDraws(9), SpokenDraws(9)
    wanted = python.generate(LABELS, draws=theirs, **options_of(variant, "guided"))
    assert_close(library.generate(bundle, LABELS, ours, **options_of(variant, "guided")), wanted)
    assert ours.orders == theirs.orders
    assert_close(library.generate(bundle, LABELS, seed=9, **options_of(variant, "guided")), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_queue_that_records_a_variant_gives_the_same_latents(
    run: Any, built: Path, build_variant: Any, variant: str
) -> None:
    """What a GPU does, in the host's memory: launches are queued, segments recorded and replayed."""
    bundle = build_variant(variant)
    environment = os.environ | {"HIMAR_TEST_BUNDLES": str(bundle.parent), "HIMAR_TEST_VARIANT": bundle.name}
    said = run(built / "tests" / "himar_tests", "--test-case=both queues give the same latents*", env=environment)
    assert "1 passed" in said
    assert "skipped:" not in said


@pytest.mark.slow
def test_a_single_scale_has_one_stage_and_refuses_what_belongs_to_phase_low(library: Any, build_variant: Any) -> None:
    bundle: Path = build_variant("single-scale")
    for options in (
        {"low_steps": 2}, {"low_guidance": 2.0}, {"low_solver": "ddim"}, {"low_diffusion_steps": 8},
        {"low_forecast": 2}, {"low_diffusion_counts": []},
    ):  # fmt: skip
        with pytest.raises(InputError) as theirs:
            Pipeline.load(bundle).generate([1], **options)
        with pytest.raises(RuntimeError) as ours:
            library.generate(bundle, [1], **options)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(InputError) as theirs:
        Pipeline.load(bundle).generate([1], high_solver="ddim", temperature=0.5)
    with pytest.raises(RuntimeError) as ours:
        library.generate(bundle, [1], high_solver="ddim", temperature=0.5)
    assert str(ours.value) == str(theirs.value)
    steps: list[Any] = []
    library.generate(bundle, [1], on_step=library.callback(lambda step: steps.append(step) is None))
    assert [(step.stage, step.stage_name, step.step) for step in steps] == [(0, b"high", i) for i in range(3)]
    assert {(step.total, tuple(step.preview_shape)) for step in steps} == {(3, (1, 4, 0, 0))}
    with pytest.raises(RuntimeError, match="this model has a single scale, so there is no low-resolution preview"):
        library.previews(bundle, [1], seed=1)
    with pytest.raises(RuntimeError, match="this bundle has no VAE decoder, so there is no preview in pixels"):
        library.previews(bundle, [1], of="so_far", seed=1)


@pytest.mark.parametrize("change", [{"pivots": "audible"}, {"low_head": "mlp2"}, {"cond_scale": 2, "pivots": "none"}])
def test_phases_of_the_future_are_refused_as_python_refuses_them(
    library: Any, make_bundle: Any, edit_manifest: Any, change: dict[str, Any]
) -> None:
    path = make_bundle("changed")
    edit_manifest(path, lambda manifest: manifest["model"].update(change))
    with pytest.raises(Exception, match=r"manifest\.json: model\.") as theirs:
        Pipeline.load(path)
    with pytest.raises(RuntimeError) as ours:
        library.generate(path, [1])
    assert str(ours.value) == str(theirs.value)


def test_a_family_that_is_not_there_is_refused(library: Any, make_bundle: Any, edit_manifest: Any) -> None:
    path = make_bundle("changed")
    edit_manifest(path, lambda manifest: manifest["model"].update(family="hi_mar"))
    assert library.generate(path, [1]).latents.shape[0] == 1
    edit_manifest(path, lambda manifest: manifest["model"].update(family="of_tomorrow"))
    said = r"manifest\.json: model\.family is 'of_tomorrow'; this himar knows 'hi_mar'"
    with pytest.raises(BundleError, match=said):
        Pipeline.load(path)
    with pytest.raises(RuntimeError, match=said):
        library.generate(path, [1])
