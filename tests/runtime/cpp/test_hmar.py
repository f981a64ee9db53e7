"""HMAR bundles in the C++ runtime: recordings exact in codes, Python's images at any batch, and its sentences."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from himar_kernels import InputError
from himar_kernels.families import hmar
from himar_runtime import Pipeline, read_recipes
from tests.closeness import RUN, SAME_ENGINES, assert_near, assert_same_pixels
from tests.runtime.tiny_hmar import L, write_hmar_bundle

GOLDEN = Path(__file__).parents[2] / "golden"
LABELS = [3, 0, 4, 1, 1]
"""More than the tiny bundle's max_batch of 3."""

REQUESTS: dict[str, dict[str, Any]] = {
    "masked": {},
    "plain": {"sampling": "plain"},
    "filters": {"top_k": 4, "top_p": 0.55, "guidance": 0.5},
    "guided masks": {"mask_guidance": 1.0, "schedule": [[1], [4], [0, 4, 5]]},
    "unguided masks": {"guidance": 0, "first_index": 2**32 - 5},
    "var": {"all_scales": True, "schedule": []},
    "unguided var": {"sampling": "plain", "all_scales": True},
}


def assert_same_images(found: Any, wanted: Any) -> None:
    assert np.array_equal(found.codes, wanted.arrays["codes"])
    assert_near(found.latents, wanted.latents, RUN)
    assert_same_pixels(found.images, wanted.images)
    assert [json.loads(recipe) for recipe in found.recipes] == [recipe.to_dict() for recipe in wanted.recipes]


@pytest.fixture(scope="module")
def python(tiny_hmar_path: Path) -> Pipeline:
    return Pipeline.load(tiny_hmar_path, threads=1)


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_seed_gives_pythons_images(library: Any, tiny_hmar_path: Path, python: Pipeline, request_name: str) -> None:
    options = REQUESTS[request_name]
    wanted = python.generate(LABELS, seed=2**63 + 5, **options)
    assert_same_images(library.generate(tiny_hmar_path, LABELS, seed=2**63 + 5, **options), wanted)


def test_images_of_seeds_and_indices_of_their_own_are_pythons(
    library: Any, tiny_hmar_path: Path, python: Pipeline
) -> None:
    seeds, indices = [11, 2**64 - 1, 11, 0, 0], [0, 5, 2**32 - 1, 0, 1]
    wanted = python.generate(LABELS, draws=hmar.ImageDraws(seeds, indices))
    assert_same_images(library.generate(tiny_hmar_path, LABELS, seeds=seeds, indices=indices), wanted)


@pytest.mark.parametrize("request_name", ["masked", "var"])
def test_an_image_depends_on_its_seed_index_and_label_alone(
    library: Any, tiny_hmar_path: Path, request_name: str
) -> None:
    options = REQUESTS[request_name]
    together = library.generate(tiny_hmar_path, LABELS, seed=4, **options)
    for place in (0, 4):
        alone = library.generate(tiny_hmar_path, [LABELS[place]], seed=4, first_index=place, threads=2, **options)
        assert np.array_equal(alone.codes[0], together.codes[place])
        assert_near(alone.latents[0], together.latents[place], SAME_ENGINES)


def test_a_smooth_preview_is_pythons_and_has_no_codes(library: Any, tiny_hmar_path: Path, python: Pipeline) -> None:
    options = {"smooth": True, "schedule": [], "top_k": 5}
    wanted = python.generate(LABELS, seed=8, **options)
    found = library.generate(tiny_hmar_path, LABELS, seed=8, **options)
    assert_near(found.latents, wanted.latents, RUN)
    assert (found.codes == -1).all() and found.codes.shape == (len(LABELS), L)
    drawn = library.generate(tiny_hmar_path, LABELS, hmar.PhiloxDraws(8), **options)
    assert np.array_equal(drawn.latents, found.latents)


def test_draws_of_the_callers_are_asked_for_every_forward(library: Any, tiny_hmar_path: Path) -> None:
    asked: list[tuple[int, int, list[int]]] = []

    class Told:
        def uniforms(self, scale: int, step: int, images: Any, cells: int) -> Any:
            asked.append((scale, step, images.tolist()))
            return hmar.PhiloxDraws(4).uniforms(scale, step, images, cells)

    found = library.generate(tiny_hmar_path, [3, 0], Told(), first_index=7)
    forwards = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert asked == [(*forward, [7, 8]) for forward in forwards]
    assert np.array_equal(found.codes, library.generate(tiny_hmar_path, [3, 0], seed=4, first_index=7).codes)
    assert all(json.loads(recipe)["seed"] is None for recipe in found.recipes)


def test_draws_that_are_no_uniforms_are_refused(library: Any, tiny_hmar_path: Path) -> None:
    class Ones:
        def uniforms(self, scale: int, step: int, images: Any, cells: int) -> Any:
            return np.full((len(images), cells), 1 if scale else 0, np.float32)

    with pytest.raises(RuntimeError, match=r"gave the uniform 1.0 for scale 1, step 0; it must be in \[0, 1\)"):
        library.generate(tiny_hmar_path, [3], Ones())
    with pytest.raises(RuntimeError, match="both seed 3 and draws are given"):
        library.generate(tiny_hmar_path, [3], Ones(), seed=3)


def test_previews_and_progress_are_pythons_and_a_callback_cancels(
    library: Any, tiny_hmar_path: Path, python: Pipeline
) -> None:
    wanted: list[Any] = []
    python.generate([3, 1], seed=2, on_step=lambda step: wanted.append((step.phase, step.preview())))
    found = library.previews(tiny_hmar_path, [3, 1], seed=2)
    assert len(found) == len(wanted) == 3
    for ours, (_, theirs) in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape == (2, 12, 12, 3)
        assert_same_pixels(ours, theirs)
    steps: list[Any] = []

    def look(step: Any) -> bool:
        steps.append((step.stage, step.stage_name.decode(), step.step, step.done, step.total, step.preview_shape[:]))
        return len(steps) < 2

    with pytest.raises(RuntimeError, match="index is 0, but the result holds 0 images"):
        library.generate(tiny_hmar_path, [3, 1], on_step=library.callback(look))
    assert steps == [(i, f"scale {i + 1}", 0, i + 1, 3, [2, 2, 3, 3]) for i in range(2)]


def refusals_of(library: Any, bundle: Path, **options: Any) -> tuple[str, str]:
    with pytest.raises(InputError) as theirs:
        Pipeline.load(bundle).generate([1], **options)
    with pytest.raises(RuntimeError) as ours:
        library.generate(bundle, [1], **options)
    return str(ours.value), str(theirs.value)


@pytest.mark.parametrize(
    "options",
    [
        {"guidance": -1.0}, {"guidance": float("inf")}, {"top_k": -2}, {"top_k": 12}, {"top_p": 0.0}, {"top_p": 1.5},
        {"mask_guidance": -0.5}, {"sampling": "best"}, {"schedule": 3}, {"schedule": "fine"}, {"schedule": [1, 3]},
        {"schedule": [[1], []]}, {"schedule": [[1], [1.5, 3]]}, {"schedule": [[1], [-1, 5]]},
        {"schedule": [[1], [4, 0]]}, {"schedule": [[1], [1, True]]}, {"schedule": [[1], [1, 2]]},
        {"schedule": [[0, 1]]}, {"schedule": [[1]] * 4},
        {"all_scales": True}, {"smooth": True}, {"low_steps": 3}, {"temperature": 0.5, "high_solver": "ddim"},
    ],
    ids=str,
)  # fmt: skip
def test_refused_requests_are_pythons_sentences(library: Any, tiny_hmar_path: Path, options: dict[str, Any]) -> None:
    ours, theirs = refusals_of(library, tiny_hmar_path, **options)
    assert ours == theirs


def test_models_without_masked_steps_or_all_scales_refuse_them(library: Any, tmp_path: Path) -> None:
    plain = write_hmar_bundle(tmp_path / "plain", masked=False, var=False)
    wanted = Pipeline.load(plain, threads=1).generate([1, 2], seed=3)
    assert_same_images(library.generate(plain, [1, 2], seed=3), wanted)
    ours, theirs = refusals_of(library, plain, schedule=[[1], [1, 3]])
    assert ours == theirs and "this model has the next-scale network alone" in ours
    ours, theirs = refusals_of(library, plain, all_scales=True)
    assert ours == theirs and "all_scales is set, but this bundle has no component var_trunk" in ours


def test_all_scales_are_loaded_when_first_asked_for(library: Any, tmp_path: Path) -> None:
    bundle = write_hmar_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["components"]["var_tail"]["engine"]["file"] = "weights.bin"  # no graph
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert library.generate(bundle, [1], seed=3).codes.shape == (1, L)
    with pytest.raises(RuntimeError, match="var_tail does not load on cpu"):
        library.generate(bundle, [1], seed=3, all_scales=True, schedule=[])


@pytest.mark.parametrize("name", ["conditions", "next_scale_tail", "masked_tail", "vae_decoder"])
def test_values_that_are_not_finite_are_refused_in_pythons_words(library: Any, tmp_path: Path, name: str) -> None:
    bundle = write_hmar_bundle(tmp_path / "nan", poison={name: float("nan")})
    with pytest.raises(Exception, match="not finite") as theirs:
        Pipeline.load(bundle).generate([1])
    with pytest.raises(RuntimeError) as ours:
        library.generate(bundle, [1])
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    "change",
    [
        {"tail": 4}, {"tail": -1}, {"masked": 1}, {"patch_nums": [1]}, {"patch_nums": [1, 3, 2]}, {"width": 0},
        {"patch_nums": [1, 2, 300]}, {"codebook": None},
    ],
    ids=str,
)  # fmt: skip
def test_manifests_are_refused_in_pythons_words(
    library: Any, tmp_path: Path, edit_manifest: Any, change: dict[str, Any]
) -> None:
    bundle = write_hmar_bundle(tmp_path / "changed")
    edit_manifest(bundle, lambda manifest: manifest["model"].update(change))
    with pytest.raises(Exception, match=r"manifest\.json") as theirs:
        Pipeline.load(bundle)
    with pytest.raises(RuntimeError) as ours:
        library.generate(bundle, [1])
    assert str(ours.value).replace("'None'", "None").replace("null", "None") == str(theirs.value)


def test_a_component_that_is_missing_is_named_in_pythons_words(
    library: Any, tmp_path: Path, edit_manifest: Any
) -> None:
    bundle = write_hmar_bundle(tmp_path / "changed")
    edit_manifest(bundle, lambda manifest: [manifest["components"].pop(name) for name in ("trunk", "vae_decoder")])
    with pytest.raises(Exception, match="lacks the component trunk, vae_decoder") as theirs:
        Pipeline.load(bundle)
    with pytest.raises(RuntimeError) as ours:
        library.generate(bundle, [1])
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"offset": 10**9}, "points at an array that is not there"),
        ({"offset": -4}, "points at an array that is not there"),
        ({"shape": [11, 3]}, r"model.codebook.embedding.shape is \[11,3\]; it must be \[11,2\]"),
        ({"dtype": "float16"}, "model.codebook.embedding.dtype is 'float16'; it must be 'float32'"),
        ({"file": "../weights.bin"}, "leads out of the bundle"),
    ],
)
def test_a_codebook_that_is_not_there_is_refused(
    library: Any, tmp_path: Path, edit_manifest: Any, change: dict[str, Any], sentence: str
) -> None:
    bundle = write_hmar_bundle(tmp_path / "changed")
    edit_manifest(bundle, lambda manifest: manifest["model"]["codebook"]["embedding"].update(change))
    with pytest.raises(RuntimeError, match=sentence):
        library.generate(bundle, [1])


def test_himar_generate_writes_pngs_with_recipes(
    run: Any, built: Path, tiny_hmar_path: Path, python: Pipeline, tmp_path: Path
) -> None:
    program = built / "examples" / "himar-generate"
    options = ["--labels", "1,3", "--seed", "9", "--threads", "1", "--guidance", "2", "--top-k", "5", "--top-p", "0.8"]
    options += ["--schedule", "[[1], [2, 2]]", "--mask-guidance", "0.5"]
    run(program, tiny_hmar_path, *options, "--out", tmp_path / "out")
    schedule = [[1], [2, 2]]
    wanted = python.generate([1, 3], seed=9, guidance=2, top_k=5, top_p=0.8, schedule=schedule, mask_guidance=0.5)
    assert wanted.images is not None
    for place, label in enumerate([1, 3]):
        path = tmp_path / "out" / f"9-0000{place}-{label}.png"
        assert read_recipes(path) == (wanted.recipes[place],)
        assert_same_pixels(np.asarray(Image.open(path)), wanted.images[place])
    run(program, tiny_hmar_path, *options[:4], "--all-scales", "--schedule", "[]", "--out", tmp_path / "var")
    recipe = read_recipes(tmp_path / "var" / "9-00000-1.png")[0]
    assert recipe.sampling.all_scales and recipe.family == "hmar"


def test_himar_generate_refuses_options_of_the_other_family(
    run: Any, built: Path, tiny_hmar_path: Path, bundle_path: Path
) -> None:
    program = built / "examples" / "himar-generate"
    said = run(program, tiny_hmar_path, "--labels", "1", "--low-steps", "2", code=1)
    assert said == (
        "himar-generate: low_steps is given, but an HMAR model has no such setting; it has guidance, top_k, top_p, "
        "schedule, mask_guidance, all_scales, smooth.\n"
    )
    said = run(program, bundle_path, "--labels", "1", "--top-k", "2", code=1)
    assert said.startswith("himar-generate: top_k is given, but a Hi-MAR model has no such setting; it has guidance, ")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["masked", "nsp", "smooth", "unfiltered", "unguided", "var"])
def test_a_recorded_run(library: Any, hmar_bundle: Path, case: str) -> None:
    arrays = hmar.load_recording(GOLDEN / "hmar-narrow-144.npz")
    recorded = hmar.recorded_request(arrays, case)
    options = asdict(recorded.sampling)
    draws = hmar.RecordedDraws(arrays, case)
    found = library.generate(hmar_bundle, recorded.labels.tolist(), draws, **options)
    latents = recorded.f_hat[-1]
    assert_near(found.latents[: len(latents)], latents, 1e-3 if case == "smooth" else RUN)
    if case != "smooth":
        assert np.array_equal(found.codes, recorded.codes)


@pytest.mark.slow
def test_the_released_layout_gives_pythons_images(library: Any, hmar_bundle: Path) -> None:
    python = Pipeline.load(hmar_bundle, threads=1)
    for options in ({}, {"all_scales": True, "schedule": []}):
        wanted = python.generate([5, 0, 2, 2], seed=3, **options)
        assert_same_images(library.generate(hmar_bundle, [5, 0, 2, 2], seed=3, **options), wanted)
