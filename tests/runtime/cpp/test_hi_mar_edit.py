"""Hi-MAR's edits in the C++ runtime: Python's latents, pixels, recipes and sentences, by library and command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from himar import save_checkpoint
from himar_export.cli import main
from himar_kernels import InputError, PhiloxDraws
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.arithmetic.resize import cubic_weights, resized_values
from himar_kernels.families.hi_mar import SamplingConfig, edit_order, guide_rows, plan
from himar_kernels.families.hi_mar.editing import drawn_positions
from himar_kernels.families.hi_mar.phases import ModelInfo
from himar_runtime import Pipeline, read_recipes
from himar_runtime.edit_files import read_image
from tests.closeness import RUN, SAME_ENGINES, assert_near, assert_same_pixels
from tests.export.test_variant_loops import OTHERS
from tests.himar.small_edits import IMAGES, SIDE, holes
from tests.runtime.conftest import write_bundle
from tests.runtime.tiny_text import write_text_bundle

LABELS = [3, 0, 4, 1]
HOLES = holes()
REQUESTS: dict[str, dict[str, Any]] = {
    "guided": {},
    "without a class": {"labels": None},
    "unguided": {"guidance": 1.0, "temperature": 0.7},
    "dilated": {"dilation": 1, "feather": 3, "first_index": 2**32 - 5},
    "solvers": {"low_solver": "ddim", "high_solver": "dpm++", "guidance_schedule": "constant", "feather": 1},
    "forecasts": {"low_forecast": 3, "high_forecast": 2, "low_diffusion_steps": 14, "guidance_interval": 2},
    "lists": {"low_steps": 2, "low_guidances": [1.0, 2.5], "low_diffusion_counts": [4, 8], "least_guidance": 1.2},
    "one by one": {"low_steps": 4, "high_steps": 16},
}


def assert_same_edit(found: Any, wanted: Any, masks: Any = HOLES) -> None:
    for place in range(len(wanted.labels)):
        assert_near(found.latents[place], wanted.latents[place], RUN)
        if wanted.low_latents.size:
            assert_near(found.low_latents[place], wanted.low_latents[place], RUN)
    if wanted.images is not None:
        assert_same_pixels(found.images, wanted.images)
        assert np.array_equal(found.images[~masks], IMAGES[~masks])
    assert found.labels == wanted.labels.tolist()
    assert [json.loads(recipe) for recipe in found.recipes] == [recipe.to_dict() for recipe in wanted.recipes]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle that can edit, of up to three images."""
    return write_bundle(tmp_path_factory.mktemp("editing") / "bundle", editing=True, max_batch=3)


@pytest.fixture(scope="module")
def python(bundle: Path) -> Pipeline:
    return Pipeline.load(bundle, threads=1)


@pytest.fixture(scope="module")
def arithmetic(run: Any, built: Path) -> Any:
    """What the C++ loop's arithmetic gives for a command line."""
    return lambda *arguments: json.loads(run(built / "tests" / "himar_arithmetic", *map(str, arguments)))


def word(bits: Any) -> str:
    return "".join("1" if bit else "0" for bit in np.ravel(bits))


@pytest.mark.parametrize(("given", "wanted"), [(256, 128), (16, 8), (12, 5), (7, 7), (5, 9), (3, 1)])
def test_images_are_resized_to_the_bit(arithmetic: Any, given: int, wanted: int) -> None:
    assert arithmetic("resize", given, wanted) == cubic_weights(given, wanted).ravel().tolist()
    if given > 16:
        return
    pixels = np.random.default_rng(given).integers(0, 256, (given, given, 3), np.uint8)
    pixels[: given // 2] = 255 * (pixels[: given // 2] > 127)  # sharp edges, which overshoot
    found = np.array(arithmetic("resized", wanted, *pixels.ravel()), np.float32)
    assert np.array_equal(found, resized_values(pixels[None], wanted).ravel())


@pytest.mark.parametrize("dilation", [0, 1, 3])
def test_drawn_positions_orders_and_guides_are_pythons(arithmetic: Any, dilation: int) -> None:
    sizes = ModelInfo(3, 5, 2, 3, SIDE, 4, 0.25, 2)
    edit = Edit(IMAGES, HOLES, dilation)
    drawn = drawn_positions(edit, sizes)
    for place in range(len(edit)):
        for phase, side in (("low", 3), ("high", 4)):
            cells = drawn[phase][place]
            assert arithmetic("drawn", SIDE, dilation, side, word(HOLES[place])) == cells.tolist()
            order = PhiloxDraws(7).order(phase, side * side, np.array([place]))
            ranks = arithmetic("edit-ranks", 7, int(phase == "high"), place, word(cells))
            assert np.array_equal(np.argsort(ranks), edit_order(order, cells[None])[0])
    for halves in (1, 2):
        rows = guide_rows(np.concatenate([drawn["low"]] * halves))
        assert arithmetic("guides", 9, halves, word(drawn["low"])) == rows.ravel().tolist()


@pytest.mark.parametrize(("low", "high"), [(1, 1), (3, 17), (5, 64), (16, 40), (2, 9)])
def test_plans_of_edits_are_pythons(arithmetic: Any, low: int, high: int) -> None:
    for changes in (
        {"low_steps": 8, "high_steps": 3, "guidance_schedule": "linear"},
        {"low_steps": 4, "low_diffusion_counts": (40, 9, 2, 1000), "low_guidances": (1, 1.5, 0.3, 3), "high_steps": 2},
        {"low_steps": 16, "high_steps": 5, "high_diffusion_counts": (250, 50, 9, 8, 7), "least_guidance": 2.0},
    ):
        sampling = SamplingConfig(low_steps=1, high_steps=1).with_changes(
            low_guidance=2.3, high_guidance=4.7, **changes
        )
        wanted = [
            [int(s.phase == "high"), s.index, s.masked, s.masked_after, s.revealed, s.guidance]
            + [list(sampling.evaluations(s.phase).halves(s.diffusion_steps, s.halves))]
            for s in plan(sampling, 16, 64, (low, high))
        ]
        assert arithmetic("plan", 16, 64, json.dumps(sampling.to_dict()), low, high) == wanted


@pytest.mark.parametrize("name", REQUESTS)
def test_a_seed_gives_pythons_edits(library: Any, bundle: Path, python: Pipeline, name: str) -> None:
    options = {"labels": LABELS, "seed": 2**63 + 5, **REQUESTS[name]}
    labels = options.pop("labels")
    wanted = python.edit(IMAGES, list(HOLES), labels, **options)
    found = library.edit(bundle, IMAGES, HOLES, labels or [], **options)
    assert_same_edit(found, wanted)
    options["first_index"] = options.get("first_index", 0) + 2
    alone = library.edit(bundle, IMAGES[2:3], HOLES[2:3], (labels or [])[2:3], threads=2, **options)
    assert_near(alone.latents[0], found.latents[2], SAME_ENGINES)


def test_an_edit_that_draws_every_position_is_the_image_of_its_seed(library: Any, bundle: Path) -> None:
    for labels, options in (([1], {}), ([], {}), ([3], {"low_guidance": 1.0})):
        edited = library.edit(bundle, IMAGES[3:], HOLES[3:], labels, seed=9, first_index=4, **options)
        dilated = library.edit(bundle, IMAGES[:1], HOLES[:1], labels, seed=9, first_index=4, dilation=16, **options)
        assert np.array_equal(edited.latents, dilated.latents)
        if labels:
            whole = library.generate(bundle, labels, seed=9, first_index=4, **options)
            assert np.array_equal(edited.latents, whole.latents)
            assert np.array_equal(edited.low_latents, whole.low_latents)


def test_one_mask_for_all_and_draws_of_the_callers(library: Any, bundle: Path, python: Pipeline) -> None:
    masks = np.stack([HOLES[1]] * 4)
    wanted = python.edit(IMAGES, HOLES[1], LABELS, seed=4)
    assert_same_edit(library.edit(bundle, IMAGES, HOLES[1:2], LABELS, seed=4), wanted, masks)
    drawn = library.edit(bundle, IMAGES, HOLES, LABELS, draws=PhiloxDraws(4))
    wanted = python.edit(IMAGES, list(HOLES), LABELS, draws=PhiloxDraws(4))
    for place in range(4):
        assert_near(drawn.latents[place], wanted.latents[place], RUN)
    recipe = json.loads(drawn.recipes[2])
    assert recipe["seed"] is None and recipe["edit"] == wanted.recipes[2].to_dict()["edit"]


@pytest.mark.parametrize("of", ["preview", "so_far"])
def test_previews_are_pythons_and_a_callback_cancels(library: Any, bundle: Path, python: Pipeline, of: str) -> None:
    wanted: list[Any] = []
    python.edit(IMAGES, list(HOLES), LABELS, seed=2, on_step=lambda step: wanted.append(getattr(step, of)()))
    found = library.previews(bundle, IMAGES, HOLES, LABELS, of=of, seed=2)
    assert len(found) == len(wanted) > 8
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same_pixels(ours, theirs)
    cancelled = library.edit(bundle, IMAGES, HOLES, on_step=library.callback(lambda step: step.done < 3))
    stopped = python.edit(IMAGES, list(HOLES), on_step=lambda step: step.done < 3)
    assert cancelled.labels == stopped.labels.tolist() == [-1]


def test_a_model_from_text_edits_as_python(library: Any, tmp_path: Path) -> None:
    text = write_text_bundle(tmp_path / "bundle", editing=True, max_batch=3)
    python = Pipeline.load(text, threads=1)
    for prompts in (["red", "two", "two red", "red red red red red red"], None):
        wanted = python.edit(IMAGES, list(HOLES), prompts=prompts, seed=3, dilation=1)
        found = library.edit(text, IMAGES, HOLES, prompts=prompts, seed=3, dilation=1)
        assert_same_edit(found, wanted)
        assert tuple(found.truncated) == wanted.truncated


@pytest.fixture(scope="module")
def editing_variant(bundles: Path, small_variant: Any) -> Any:
    """The bundle of a variant that can edit, with the digits' VAE, of up to three images; built once."""

    def get(name: str) -> Path:
        out = bundles / f"editing-{name}"
        with FileLock(f"{out}.lock"):
            if not out.exists():
                model = small_variant({} if name == "learned" else OTHERS.get(name, name))
                save_checkpoint(model, checkpoint := out.with_suffix(".safetensors"))
                vae = Path(__file__).parents[3] / "himar" / "himar" / "weights" / "digits-vae.safetensors"
                command = ["build", checkpoint, "--vae", vae, "--editing", "--max-batch", 3, "--out", out, "--json"]
                assert main([str(each) for each in command]) == 0
        return out

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single-dit", "visual", "dit-low", "dit-both", "learned"])
def test_variants_edit_as_python(library: Any, editing_variant: Any, name: str) -> None:
    path: Path = editing_variant(name)
    python, labels = Pipeline.load(path, threads=1), [0, 2, 1, 2]
    single = python.bundle.manifest.model.single_scale
    quick = {"high_steps": 3, "high_diffusion_steps": 3, "low_steps": 2, "low_diffusion_steps": 4}
    quick = {key: value for key, value in quick.items() if not single or not key.startswith("low_")}
    for shown, options in ((labels, {"guidance": 2.0}), (labels, {"guidance": 1.0, "feather": 2}), (None, {})):
        wanted = python.edit(IMAGES, list(HOLES), shown, seed=5, **quick, **options)
        assert_same_edit(library.edit(path, IMAGES, HOLES, shown or [], seed=5, **quick, **options), wanted)
    whole = library.generate(path, [1], seed=5, first_index=3, **quick)
    edited = library.edit(path, IMAGES[3:], HOLES[3:], [1], seed=5, first_index=3, **quick)
    assert np.array_equal(edited.latents, whole.latents)


def refusals_of(library: Any, bundle: Path, images: Any, masks: Any, labels: Any, **options: Any) -> None:
    with pytest.raises(InputError) as theirs:
        Pipeline.load(bundle).edit(images, list(masks), labels, **options)
    with pytest.raises(RuntimeError) as ours:
        library.edit(bundle, images, masks, labels or [], **options)
    assert str(ours.value) == str(theirs.value)


ONE: Any = (IMAGES[:1], HOLES[:1])


@pytest.mark.parametrize(
    ("images", "masks", "labels", "options"),
    [
        (IMAGES[:1, :8], HOLES[:1], None, {}),
        (IMAGES[:1], HOLES[:1, :, :8], None, {}),
        (IMAGES[:1], HOLES[:1] & False, None, {}),
        (IMAGES[:1], HOLES[:1] | True, None, {}),
        (IMAGES[:3], HOLES[:2], None, {}),
        (IMAGES[:2], HOLES[:2], [1], {}),
        (*ONE, [5], {}),
        (*ONE, None, {"dilation": 17}),
        (*ONE, None, {"dilation": -1}),
        (*ONE, [1], {"feather": 17}),
        (*ONE, None, {"guidance": 2.0}),
        (*ONE, None, {"low_guidance": 1.5, "high_guidance": 3.0}),
        (*ONE, None, {"high_guidances": [1.0, 2.5]}),
        (*ONE, None, {"guidance_schedule": "linear"}),
        (*ONE, None, {"least_guidance": 0.5}),
        (*ONE, [1], {"guidance": -0.25}),
        (*ONE, [1], {"high_steps": 17}),
        (*ONE, [1], {"sampling": "best"}),
        (*ONE, None, {"prompts": ["red"]}),
        (*ONE, [1], {"prompts": ["red"]}),
        (IMAGES[:2], HOLES[:2], [1, 2], {"first_index": 2**32 - 1}),
    ],
)
def test_refused_edits_are_pythons_sentences(
    library: Any, bundle: Path, images: Any, masks: Any, labels: Any, options: dict[str, Any]
) -> None:
    refusals_of(library, bundle, np.ascontiguousarray(images), np.ascontiguousarray(masks), labels, **options)


def test_bundles_that_cannot_edit_say_what_adds_it(
    library: Any, bundle_path: Path, make_bundle: Any, edit_manifest: Any
) -> None:
    refusals_of(library, bundle_path, *ONE, None)
    path = make_bundle("lacking", editing=True)
    edit_manifest(path, lambda manifest: manifest["components"].pop("transformer_high_edit"))
    refusals_of(library, path, *ONE, [1])
    assert library.generate(path, [1]).labels == [1]


def test_what_edits_need_is_loaded_when_first_needed(library: Any, make_bundle: Any, edit_manifest: Any) -> None:
    for name in ("vae_encoder", "transformer_high_edit"):
        path = make_bundle(name, editing=True)

        def no_graph(manifest: dict[str, Any], name: str = name) -> None:
            manifest["components"][name]["engine"]["file"] = "selftest.npz"

        edit_manifest(path, no_graph)
        assert library.generate(path, [1], seed=3).labels == [1]
        with pytest.raises(RuntimeError, match=f"{name} does not load on cpu"):
            library.edit(path, *ONE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IMAGES[1] and its mask as a user has them, and a smaller image."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(IMAGES[1]).save(folder / "image.png")
    Image.fromarray(IMAGES[1][:8, :10]).save(folder / "small.png")
    Image.fromarray(255 * HOLES[1].astype(np.uint8)).save(folder / "mask.png")
    return folder


@pytest.fixture
def edit(run: Any, built: Path, bundle: Path, files: Path, tmp_path: Path) -> Any:
    """Run himar-generate --edit on files by name."""

    def run_edit(*options: Any, path: Path = bundle, image: str = "image.png", mask: bool = True, code: int = 0) -> str:
        masked = ["--mask", files / "mask.png"] if mask else []
        command = [built / "examples" / "himar-generate", path, "--edit", files / image, *masked]
        said: str = run(*command, "--threads", "1", "--out", tmp_path / "out", *map(str, options), code=code)
        return said

    return run_edit


def test_the_command_writes_variants_whose_recipes_make_them_again(edit: Any, python: Pipeline, tmp_path: Path) -> None:
    edit("--class", 3, "--count", 2, "--seed", 9, "--dilation", 1, "--feather", 2, "--low-steps", 2)
    (recipe,) = read_recipes(tmp_path / "out" / "9-00001-3.png")
    assert recipe.edit is not None and (recipe.edit.dilation, recipe.edit.feather) == (1, 2)
    again = python.edit(**recipe.edit_request(IMAGES[1], HOLES[1]))
    assert again.images is not None and again.recipes == (recipe,)
    pixels = read_image(tmp_path / "out" / "9-00001-3.png")
    assert_same_pixels(pixels, again.images[0])
    assert np.array_equal(pixels[~HOLES[1]], IMAGES[1][~HOLES[1]])


def test_the_command_draws_around_a_smaller_image_and_what_a_prompt_says(edit: Any, tmp_path: Path) -> None:
    edit("--place", "6,2", "--seed", 2, image="small.png", mask=False)
    pixels = read_image(tmp_path / "out" / "2-00000-edit.png")
    assert np.array_equal(pixels[2:10, 6:16], IMAGES[1][:8, :10])
    text = write_text_bundle(tmp_path / "text", editing=True)
    edit("--prompt", "two red", "--seed", 4, path=text)
    (recipe,) = read_recipes(tmp_path / "out" / "4-00000-edit.png")
    assert recipe.prompt == "two red"
    again = Pipeline.load(text, threads=1).edit(**recipe.edit_request(IMAGES[1], HOLES[1]))
    assert_same_pixels(read_image(tmp_path / "out" / "4-00000-edit.png"), again.images[0])


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--dilation", "17"], 1, "dilation is 17; it must be a whole number from 0 to 16, the side of the images."),
        (["--feather", "17"], 1, "feather is 17; it must be a whole number from 0 to 16, the side of the images."),
        (["--dilation", "-1"], 2, "--dilation is '-1'; it must be a whole number from 0"),
        (["--feather", "x"], 2, "--feather is 'x'; it must be a whole number from 0"),
        (["--guidance", "2"], 1, "guidance is 2.0, but neither class nor prompt is given, and without one nothing"),
        (["--prompt", "a"], 1, "prompts are given, but this bundle's model makes images of classes; give labels."),
        (["--prompt", "a", "--prompt", "b"], 2, "--prompt is given 2 times, but an edit shows one text, or none; give"),
        (["--prompts-file", "a.txt"], 2, "--prompts-file is given, but an edit shows one text, or none"),
        (["--class", "1", "--prompt", "a"], 2, "--class and --prompt are both given; give the one that"),
        (["--top-k", "3"], 1, "top_k is given, but a Hi-MAR model has no such setting"),
    ],
)  # fmt: skip
def test_what_the_command_refuses_leaves_nothing(
    edit: Any, tmp_path: Path, options: list[str], code: int, sentence: str
) -> None:
    said = edit(*options, code=code)
    assert said.startswith("himar-generate: ") and sentence in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_rings_are_of_an_edit(run: Any, built: Path, bundle: Path) -> None:
    for option in ("--dilation", "--feather"):
        command = [built / "examples" / "himar-generate", bundle, "--labels", "1", option, "1"]
        assert run(*command, code=2).startswith(f"himar-generate: {option} is of an edit; name the image with --edit.")
