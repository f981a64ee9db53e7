"""HMAR's edits in the C++ runtime: Python's codes, pixels, recipes and sentences, by the library and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from himar_kernels import InputError
from himar_kernels.arithmetic.editing import Edit, place_on_canvas
from himar_kernels.families import hmar
from himar_runtime import Pipeline, Recipe, read_recipes
from himar_runtime.edit_files import read_image, read_mask
from tests.closeness import RUN, SAME_ENGINES, assert_near, assert_same_pixels
from tests.runtime.tiny_hmar import write_hmar_bundle

LABELS = [3, 0, 4, 1, 1]
"""More than the tiny bundle's max_batch of 3."""

REQUESTS: dict[str, dict[str, Any]] = {
    "masked": {},
    "without a class": {"labels": None},
    "filters": {"top_k": 4, "top_p": 0.55, "guidance": 0.5, "first_index": 2**32 - 5},
    "guided masks": {"mask_guidance": 1.0, "schedule": [[1], [4], [0, 4, 5]]},
    "plain": {"sampling": "plain"},
    "var": {"all_scales": True, "schedule": []},
    "feather": {"feather": 3},
}


def images_of(side: int, count: int = len(LABELS)) -> np.ndarray:
    cells = np.random.default_rng(side).integers(0, 256, (count, side // 4, side // 4, 3), np.uint8)
    return np.ascontiguousarray(cells.repeat(4, axis=1).repeat(4, axis=2))


def holes(side: int) -> np.ndarray:
    """A corner, a half, a border, all but a pixel, a soft diagonal."""
    masks = np.zeros((5, side, side), np.bool_)
    masks[0, : side // 6, : side // 5] = masks[1, :, side // 2 :] = masks[2] = masks[3] = True
    masks[2, side // 3 : -side // 4, side // 3 : -side // 4] = masks[3, 0, 0] = False
    masks[4] = np.abs(np.subtract.outer(np.arange(side), np.arange(side))) < side // 8
    return masks


IMAGES, HOLES = images_of(12), holes(12)


def assert_same_edit(found: Any, wanted: Any) -> None:
    assert np.array_equal(found.codes, wanted.arrays["codes"])
    assert_near(found.latents, wanted.latents, RUN)
    assert_same_pixels(found.images, wanted.images)
    assert found.labels == wanted.labels.tolist()
    assert [json.loads(recipe) for recipe in found.recipes] == [recipe.to_dict() for recipe in wanted.recipes]


@pytest.fixture(scope="module")
def python(tiny_hmar_path: Path) -> Pipeline:
    return Pipeline.load(tiny_hmar_path, threads=1)


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_seed_gives_pythons_edits(library: Any, tiny_hmar_path: Path, python: Pipeline, request_name: str) -> None:
    options = {"labels": LABELS, "seed": 2**63 + 5, **REQUESTS[request_name]}
    labels = options.pop("labels")
    wanted = python.edit(IMAGES, list(HOLES), labels, **options)
    found = library.edit(tiny_hmar_path, IMAGES, HOLES, labels or [], **options)
    assert_same_edit(found, wanted)
    assert np.array_equal(found.images[~HOLES], IMAGES[~HOLES])
    for place in (0, 4):
        one = slice(place, place + 1)
        options["first_index"] = REQUESTS[request_name].get("first_index", 0) + place
        alone = library.edit(tiny_hmar_path, IMAGES[one], HOLES[one], (labels or [])[one], threads=2, **options)
        assert np.array_equal(alone.codes[0], found.codes[place])
        assert_near(alone.latents[0], found.latents[place], SAME_ENGINES)


def test_one_mask_for_all_and_draws_of_the_callers(library: Any, tiny_hmar_path: Path, python: Pipeline) -> None:
    wanted = python.edit(IMAGES, HOLES[1], LABELS, seed=4)
    assert_same_edit(library.edit(tiny_hmar_path, IMAGES, HOLES[1:2], LABELS, seed=4), wanted)
    drawn = library.edit(tiny_hmar_path, IMAGES, HOLES[1:2], LABELS, draws=hmar.PhiloxDraws(4))
    assert np.array_equal(drawn.codes, wanted.arrays["codes"])
    recipe = Recipe.from_dict(json.loads(drawn.recipes[2]), "recipe")
    assert recipe.seed is None and recipe.edit == wanted.recipes[2].edit


def test_previews_are_pythons_and_a_callback_cancels(library: Any, tiny_hmar_path: Path, python: Pipeline) -> None:
    wanted: list[Any] = []
    python.edit(IMAGES[:3], list(HOLES[:3]), seed=2, on_step=lambda step: wanted.append(step.preview()))
    found = library.previews(tiny_hmar_path, IMAGES[:3], HOLES[:3], seed=2)
    assert len(found) == len(wanted) == 3
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same_pixels(ours, theirs)
        assert np.array_equal(ours[~HOLES[:3]], IMAGES[:3][~HOLES[:3]])
    cancelled = library.edit(tiny_hmar_path, IMAGES, HOLES, on_step=library.callback(lambda step: step.done < 2))
    assert cancelled.labels == [] and len(cancelled.images) == 0


def test_digits_give_pythons_edits(library: Any, hmar_digits_bundle: Path) -> None:
    python = Pipeline.load(hmar_digits_bundle, threads=1)
    side = python.bundle.manifest.model.img_size
    images, masks = python.generate([3, 7, 5], seed=1).images, holes(side)[[0, 1, 4]]
    assert images is not None
    for labels in (None, [8, 7, 0]):
        wanted = python.edit(images, list(masks), labels, seed=9)
        assert_same_edit(library.edit(hmar_digits_bundle, images, masks, labels or [], seed=9), wanted)


@pytest.mark.slow
def test_the_released_layout_gives_pythons_edits(library: Any, hmar_bundle: Path) -> None:
    python = Pipeline.load(hmar_bundle, threads=1)
    images, masks = images_of(144), holes(144)
    for labels, options in ((None, {"top_k": 20}), ([5, 0, 2, 2, 6], {"schedule": [[1], [1, 3], [2, 3, 4], [6, 30]]})):
        wanted = python.edit(images, list(masks), labels, seed=3, **options)
        assert_same_edit(library.edit(hmar_bundle, images, masks, labels or [], seed=3, **options), wanted)


def refusals_of(library: Any, bundle: Path, images: Any, masks: Any, labels: Any, **options: Any) -> None:
    with pytest.raises(InputError) as theirs:
        Pipeline.load(bundle).edit(images, list(masks), labels, **options)
    with pytest.raises(RuntimeError) as ours:
        library.edit(bundle, images, masks, labels or [], **options)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("images", "masks", "labels", "options"),
    [
        (IMAGES[:0], HOLES[:1], None, {}),
        (IMAGES[:1, :8], HOLES[:1], None, {}),
        (IMAGES[:1], HOLES[:1, :, :8], None, {}),
        (IMAGES[:1], HOLES[:0], None, {}),
        (IMAGES[:1], ~HOLES[:1] | HOLES[:1], None, {}),
        (IMAGES[:2], HOLES[:2] & [[[True]], [[False]]], None, {}),
        (IMAGES[:3], HOLES[:2], None, {}),
        (IMAGES[:2], HOLES[:2], [1], {}),
        (IMAGES[:1], HOLES[:1], [5], {}),
        (IMAGES[:1], HOLES[:1], None, {"guidance": 2.0}),
        (IMAGES[:1], HOLES[:1], None, {"guidance": -0.25}),
        (IMAGES[:1], HOLES[:1], [1], {"guidance": -0.25}),
        (IMAGES[:1], HOLES[:1], [1], {"dilation": 1}),
        (IMAGES[:1], HOLES[:1], None, {"feather": 13}),
        (IMAGES[:1], HOLES[:1], None, {"prompts": ["a"]}),
        (IMAGES[:1], HOLES[:1], [1], {"smooth": True, "schedule": []}),
        (IMAGES[:1], HOLES[:1], [1], {"sampling": "best"}),
        (IMAGES[:1], HOLES[:1], [1], {"schedule": [[1], [1, 2]]}),
        (IMAGES[:1], HOLES[:1], [1], {"low_steps": 3}),
        (IMAGES[:2], HOLES[:2], [1, 2], {"first_index": 2**32 - 1}),
    ],
)
def test_refused_edits_are_pythons_sentences(
    library: Any, tiny_hmar_path: Path, images: Any, masks: Any, labels: Any, options: dict[str, Any]
) -> None:
    images, masks = np.ascontiguousarray(images), np.ascontiguousarray(masks)
    refusals_of(library, tiny_hmar_path, images, masks, labels, **options)


def test_bundles_that_cannot_edit_say_so(library: Any, bundle_path: Path, tmp_path: Path) -> None:
    older = write_hmar_bundle(tmp_path / "older", encoder=False)
    refusals_of(library, older, IMAGES[:1], HOLES[:1], None)
    refusals_of(library, bundle_path, images_of(16, 1), holes(16)[:1], None, low_steps=2)
    assert library.generate(older, [1]).labels == [1]


def test_the_encoder_is_loaded_when_first_needed(library: Any, tmp_path: Path) -> None:
    bundle = write_hmar_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["components"]["vae_encoder"]["engine"]["file"] = "weights.bin"  # no graph
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert library.generate(bundle, [1], seed=3).labels == [1]
    with pytest.raises(RuntimeError, match="vae_encoder does not load on cpu"):
        library.edit(bundle, IMAGES[:1], HOLES[:1])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IMAGES[1] and its mask as a user has them, and what does not fit."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(IMAGES[1]).save(folder / "image.png")
    Image.fromarray(IMAGES[1][:6, :5]).save(folder / "small.png")
    Image.fromarray(IMAGES[1]).save(folder / "photo.jpg")
    for name, mask in (
        ("mask", HOLES[1]),
        ("short", HOLES[1, :10]),
        ("of-small", np.arange(30).reshape(6, 5) % 7 < 2),
        ("empty", HOLES[1] & False),
        ("full", HOLES[1] | True),
    ):
        Image.fromarray(255 * mask.astype(np.uint8)).save(folder / f"{name}.png")
    grey = np.random.default_rng(2).integers(40, 200, (12, 12), np.uint8)
    grey[:3] = 255
    Image.fromarray(grey).save(folder / "grey.png")
    (folder / "text.png").write_text("no image")
    return folder


@pytest.fixture
def edit(run: Any, built: Path, tiny_hmar_path: Path, files: Path, tmp_path: Path) -> Any:
    """Run himar-generate --edit on files by name."""

    def run_edit(*options: Any, image: str = "image.png", mask: str | None = "mask.png", code: int = 0) -> str:
        masked = [] if mask is None else ["--mask", files / mask]
        command = [built / "examples" / "himar-generate", tiny_hmar_path, "--edit", files / image, *masked]
        said: str = run(*command, "--threads", "1", "--out", tmp_path / "out", *map(str, options), code=code)
        return said

    return run_edit


def test_the_command_writes_variants_whose_recipes_make_them_again(edit: Any, python: Pipeline, tmp_path: Path) -> None:
    edit("--class", 3, "--count", 2, "--seed", 9, "--schedule", "[[1],[1,3]]", "--top-k", 4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["9-00000-3.png", "9-00001-3.png"]
    (recipe,) = read_recipes(tmp_path / "out" / "9-00001-3.png")
    again = python.edit(**recipe.edit_request(IMAGES[1], HOLES[1]))
    assert again.images is not None and again.recipes == (recipe,)
    pixels = read_image(tmp_path / "out" / "9-00001-3.png")
    assert_same_pixels(pixels, again.images[0])
    assert np.array_equal(pixels[~HOLES[1]], IMAGES[1][~HOLES[1]])


@pytest.mark.parametrize("mask", [None, "of-small.png"])
def test_the_command_draws_around_a_smaller_image(
    edit: Any, files: Path, python: Pipeline, tmp_path: Path, mask: str | None
) -> None:
    for place, left, top in (("6,3", 6, 3), ("centre", 3, 3)):
        edit("--place", place, "--seed", 2, image="small.png", mask=mask)
        (path,) = (tmp_path / "out").iterdir()
        assert path.name == "2-00000-edit.png"
        canvas, border = place_on_canvas(IMAGES[1][:6, :5], 12, left, top)
        if mask is not None:
            border[top : top + 6, left : left + 5] |= read_mask(files / mask)
        wanted = python.edit([canvas], [border], seed=2)
        assert wanted.images is not None and read_recipes(path) == wanted.recipes
        assert_same_pixels(read_image(path), wanted.images[0])


@pytest.mark.parametrize(
    ("options", "names", "code", "sentence"),
    [
        ([], {"image": "text.png"}, 1, "text.png cannot be read: it is not a PNG image that can be decoded; give a"),
        ([], {"image": "photo.jpg"}, 1, "photo.jpg cannot be read: it is not a PNG image that can be decoded; give a"),
        ([], {"image": "none.png"}, 1, "none.png cannot be read: No such file or directory; give a PNG file."),
        ([], {"mask": "."}, 1, "cannot be read: Is a directory; give a PNG file."),
        ([], {"mask": "grey.png"}, 1, "grey.png is no mask: 75% of its pixels are neither black nor white; paint"),
        ([], {"image": "small.png"}, 1, "image 0 has 5 × 6 pixels, but the model's images have 12 × 12; crop or"),
        ([], {"mask": "short.png"}, 1, "mask 0 has 12 × 10 pixels, but its image has 12 × 12; give a mask of the"),
        ([], {"mask": "empty.png"}, 1, "mask 0 is empty, so there is nothing to draw; mark the pixels to change."),
        ([], {"mask": "full.png"}, 1, "mask 0 covers the whole image, so nothing is kept; generate an image instead."),
        (["--class", "7"], {}, 1, "label 7 (number 0 of the list) is not a class of this model; classes are the whole"),
        (["--class", "1,2"], {}, 2, "--class: '1,2' names 2 classes; give one. Try --help."),
        (["--class", "cat"], {}, 2, "--class has 'cat', but the bundle names no classes; write numbers"),
        (["--guidance", "2"], {}, 1, "guidance is 2, but no class is given, and without one nothing guides an edit"),
        (["--sampling", "fast"], {}, 1, "sampling 'fast' is not in this bundle; it has "),
        (["--low-steps", "2"], {}, 1, "low_steps is given, but an HMAR model has no such setting"),
        (["--labels", "2"], {}, 2, "--labels is given, but an edit shows one class, or none; give --class."),
        ([], {"mask": None}, 2, "--mask is missing; only --place, which draws around a smaller image, needs none."),
        (["--place", "left"], {}, 2, "--place: 'left' is neither centre nor LEFT,TOP in pixels, for example 64,0."),
        (["--place", "1,-2"], {}, 2, "'1,-2' is neither centre nor LEFT,TOP in pixels, for example 64,0."),
        (
            ["--place", "8,0"],
            {"image": "small.png", "mask": None},
            1,
            "an image of 5 × 6 pixels placed at 8,0 is not wholly on the canvas of 12 × 12; place it elsewhere",
        ),
        (["--place", "0,0"], {"image": "small.png"}, 1, "the mask has 12 × 12 pixels, but the image has 5 × 6; give a"),
        (["--place", "0,0"], {"mask": None}, 1, "mask 0 is empty, so there is nothing to draw"),
    ],
)
def test_what_the_command_refuses_leaves_nothing(
    edit: Any, tmp_path: Path, options: list[str], names: dict[str, Any], code: int, sentence: str
) -> None:
    said = edit(*options, code=code, **names)
    assert said.startswith("himar-generate: ") and sentence in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_options_of_an_edit_need_an_image(run: Any, built: Path, tiny_hmar_path: Path) -> None:
    for option, value in (("--mask", "m.png"), ("--place", "centre"), ("--class", "1")):
        command = [built / "examples" / "himar-generate", tiny_hmar_path, "--labels", "1", option, value]
        assert run(*command, code=2).startswith(f"himar-generate: {option} is of an edit; name the image with --edit.")


def pictures() -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """A picture of each kind of PNG: half white, half black, so that it serves as a mask too, and a row of colours."""
    rgb = IMAGES[2].copy()
    rgb[:6], rgb[7:] = 255, 0
    picture = Image.fromarray(rgb)
    opaque = np.dstack([rgb, np.full((12, 12), 255, np.uint8)])
    two = picture.quantize(4)
    kinds: dict[str, Any] = {mode: picture.convert(mode) for mode in ("RGB", "L", "LA", "RGBA", "1", "P")}
    kinds |= {"opaque": Image.fromarray(opaque), "two bits": two}
    saved = {name: (kind, {"bits": 2} if name == "two bits" else {}) for name, kind in kinds.items()}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        saved[f"turned {orientation}"] = picture, {"exif": exif}
    exif = Image.Exif()
    exif[0x0112] = 9
    saved["no orientation"] = picture, {"exif": exif}
    return saved


PICTURES = pictures()


@pytest.mark.parametrize("name", PICTURES)
def test_every_kind_of_png_is_read_as_python_reads_it(
    run: Any, built: Path, tiny_hmar_path: Path, tmp_path: Path, name: str
) -> None:
    picture, options = PICTURES[name]
    picture.save(tmp_path / "a.png", **options)
    command = [built / "examples" / "himar-generate", tiny_hmar_path, "--threads", "1", "--schedule", "[]"]
    run(*command, "--edit", tmp_path / "a.png", "--mask", tmp_path / "a.png", "--out", tmp_path / "b.png")
    (recipe,) = read_recipes(tmp_path / "b.png")
    assert recipe.edit is not None
    hashes = Edit(read_image(tmp_path / "a.png")[None], read_mask(tmp_path / "a.png")[None]).hashes()[0]
    assert hashes == (recipe.edit.image, recipe.edit.mask)


def test_files_that_mean_nothing_certain_are_refused(edit: Any, files: Path) -> None:
    clear = np.dstack([IMAGES[1], np.full((12, 12), 255, np.uint8)])
    clear[0, 0, 3] = 254
    Image.fromarray(clear).save(files / "clear.png")
    palette = Image.fromarray(IMAGES[1]).convert("P")
    palette.save(files / "palette.png", transparency=palette.getpixel((0, 0)))
    Image.fromarray(np.full((12, 12), 40_000, np.uint16)).save(files / "deep.png")
    for name in ("clear.png", "palette.png"):
        sentence = "has transparent pixels, of which it is unclear what they mean; save it without transparency."
        assert f"the image {files / name} {sentence}" in edit(image=name, code=1)
        assert f"the mask {files / name} {sentence}" in edit(mask=name, code=1)
    assert "deep.png has pixels of 16 bits a channel; save it with 8 bits a channel first." in edit(
        image="deep.png", code=1
    )


def test_a_damaged_png_is_read_or_refused(run: Any, built: Path, tmp_path: Path) -> None:
    """Before the bundle is opened, which is not there."""
    generator, path = np.random.default_rng(1), tmp_path / "a.png"
    Image.fromarray(IMAGES[1]).save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    command = [built / "examples" / "himar-generate", "/no/bundle", "--edit", path, "--place", "0,0"]
    refused = 0
    for turn in range(24):
        damaged = whole.copy() if turn % 2 else whole[: int(generator.integers(len(whole)))].copy()
        damaged[generator.integers(0, max(len(damaged), 1), 4 if len(damaged) else 0)] ^= 0x55
        path.write_bytes(damaged.tobytes())
        said = run(*command, code=1)
        assert said.count("\n") == 1
        refused += str(path) in said
    assert refused > 12
