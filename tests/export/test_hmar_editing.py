"""Edits through the engines: eager's codes, what is kept, the command, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.editing import edit_codes, kept_codes
from himar.families.hmar.tokenizer.files import load_tokenizer
from himar_export.cli import main
from himar_kernels import InputError
from himar_kernels.arithmetic.editing import check_edit, place_on_canvas
from himar_kernels.families.hmar import PhiloxDraws
from himar_runtime import Pipeline, Recipe, read_recipes
from himar_runtime.edit_files import read_image
from tests.closeness import RUN, assert_near, assert_same_pixels

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
SIDE = 144
QUICK = {"schedule": [[1], [1, 3], [2, 3, 4], [6, 30]], "top_k": 20}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)


def holes() -> np.ndarray:
    """A corner, a half, a border, all but a pixel."""
    masks = np.zeros((4, SIDE, SIDE), np.bool_)
    masks[0, :20, :30] = masks[1, :, 72:] = masks[2] = masks[3] = True
    masks[2, 40:100, 40:100] = masks[3, 0, 0] = False
    return masks


@pytest.fixture(scope="module")
def pipeline(hmar_bundle):
    return Pipeline.load(hmar_bundle)


@pytest.fixture(scope="module")
def eager():
    model = load_checkpoint(GOLDEN / "hmar-narrow-144.pth", GOLDEN / "hmar-narrow-144.json")
    return model, load_tokenizer(GOLDEN / "hmar-vae-narrow.pth", model.config)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """IMAGES[1] and its mask as a user has them, and what does not fit."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(IMAGES[1]).save(folder / "image.png")
    Image.fromarray(255 * holes()[1].astype(np.uint8)).save(folder / "mask.png")
    Image.fromarray(IMAGES[1][:64, :80]).save(folder / "small.png")
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(folder / "empty.png")
    Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(folder / "full.png")
    Image.fromarray(255 * holes()[1, :100].astype(np.uint8)).save(folder / "short.png")
    (folder / "text.png").write_text("no image")
    return folder


def command(bundle, files, out, *options, image="image.png", mask="mask.png") -> list[str]:
    masked = [] if mask is None else ["--mask", str(files / mask)]
    return ["edit", str(bundle), "--image", str(files / image), *masked, "--out", str(out), *map(str, options)]


@pytest.mark.parametrize("labels", [[2, 5, 0, 6], None])
def test_an_edit_has_the_codes_of_the_eager_editor(pipeline, eager, labels):
    sampling = pipeline.bundle.manifest.sampling["masked"].with_changes(**QUICK)
    result = pipeline.edit(IMAGES, list(holes()), labels, seed=11, sampling=sampling)  # two chunks: max_batch is 3
    checked = check_edit(IMAGES, holes(), SIDE)
    expected = edit_codes(*eager, checked, labels, draws=PhiloxDraws(11), sampling=sampling)
    np.testing.assert_array_equal(result.arrays["codes"], expected.codes.numpy())
    assert_near(result.latents, expected.f_hat.numpy(), RUN)
    kept = kept_codes(eager[1], eager[0], checked)
    np.testing.assert_array_equal(result.arrays["codes"][~kept.edited], kept.codes[~kept.edited])
    np.testing.assert_array_equal(result.images[~holes()], IMAGES[~holes()])
    assert not np.array_equal(result.images[holes()], IMAGES[holes()])
    assert result.labels.tolist() == (labels or [-1] * 4)


def test_where_every_cell_is_drawn_an_edit_is_the_image_of_its_seed(pipeline):
    edited = pipeline.edit(IMAGES[3:], holes()[3], [5], seed=4, **QUICK)
    np.testing.assert_array_equal(edited.arrays["codes"], pipeline.generate([5], seed=4, **QUICK).arrays["codes"])


def test_a_clone_edits_and_previews_show_the_rest_as_it_is(pipeline):
    seen = []

    def on_step(step):
        seen.append((step.phase, step.total, step.preview()))
        return len(seen) < 2

    result = pipeline.clone().edit([IMAGES[0]], [holes()[0]], [1], on_step=on_step, **QUICK)
    assert (result.status, len(result.images)) == ("cancelled", 0)
    assert [(phase, total) for phase, total, _ in seen] == [("scale 1", 5), ("scale 2", 5)]
    assert all(np.array_equal(preview[0][~holes()[0]], IMAGES[0][~holes()[0]]) for *_, preview in seen)


def test_the_command_writes_variants_whose_recipes_make_them_again(hmar_bundle, pipeline, files, tmp_path, capsys):
    out = tmp_path / "edit.png"
    options = ["--class", 3, "--count", 2, "--seed", 9, "--schedule", "[[1],[1,3]]", "--top-k", 20, "--json"]
    assert main(command(hmar_bundle, files, out, *options)) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    recipes = read_recipes(out)
    sheet = read_image(out)
    assert sheet.shape == (SIDE, 2 * SIDE + 2, 3)
    again = pipeline.edit(**recipes[1].edit_request(IMAGES[1], holes()[1]))
    assert_same_pixels(again.images[0], sheet[:, SIDE + 2 :])
    np.testing.assert_array_equal(again.images[0][~holes()[1]], IMAGES[1][~holes()[1]])
    assert again.recipes == recipes[1:]
    assert Recipe.from_dict(recipes[1].to_dict(), "x") == recipes[1]
    assert (recipes[1].label, recipes[1].sampling.schedule) == (3, ((1,), (1, 3)))
    with pytest.raises(InputError, match="the mask is not the one that was edited: its pixels' SHA-256 begins with"):
        recipes[1].edit_request(IMAGES[1], holes()[0])
    with pytest.raises(InputError, match=r"this image is an edit of another one, .* use edit_request"):
        recipes[1].request()
    assert main(["inspect", str(out)]) == 0
    assert f"edited mask    sha256 {recipes[1].edit.mask[:16]}…" in capsys.readouterr().out


def test_the_command_draws_around_a_smaller_image(hmar_bundle, pipeline, files, tmp_path, capsys):
    for place, left, top in (("60,3", 60, 3), ("centre", 32, 40)):
        out = tmp_path / place
        options = ["--place", place, "--schedule", "[]", "--seed", 2]
        assert main(command(hmar_bundle, files, out, *options, image="small.png", mask=None)) == 0
        assert [path.name for path in out.iterdir()] == ["2-00000-edit.png"]
        made = read_image(out / "2-00000-edit.png")
        np.testing.assert_array_equal(made[top : top + 64, left : left + 80], IMAGES[1][:64, :80])
        canvas, border = place_on_canvas(IMAGES[1][:64, :80], SIDE, left, top)
        expected = pipeline.edit([canvas], [border], seed=2, schedule=[])
        assert_same_pixels(made, expected.images[0])
    (recipe,) = read_recipes(out / "2-00000-edit.png")
    assert recipe.label is None and recipe.sampling.guidance == 0
    assert main(["inspect", str(out / "2-00000-edit.png")]) == 0
    assert "index:label    0:none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "names", "code", "sentence"),
    [
        ([], {"image": "text.png"}, 1, "text.png cannot be read: it is not an image that can be decoded"),
        ([], {"mask": "image.png"}, 1, "image.png is no mask: "),
        ([], {"image": "small.png"}, 1, "image 0 has 80 × 64 pixels, but the model's images have 144 × 144"),
        ([], {"mask": "short.png"}, 1, "mask 0 has 144 × 100 pixels, but its image has 144 × 144"),
        ([], {"mask": "empty.png"}, 1, "mask 0 is empty, so there is nothing to draw; mark the pixels to change."),
        ([], {"mask": "full.png"}, 1, "mask 0 covers the whole image, so nothing is kept; generate an image instead."),
        (["--class", "7"], {}, 1, "label 7 (number 0 of the list) is not a class of this model; classes are the whole"),
        (["--class", "1,2"], {}, 2, "'1,2' names 2 classes; give one."),
        (["--class", "cat"], {}, 2, "Invalid value for --class: 'cat' is neither a number nor a range"),
        (["--guidance", "2"], {}, 1, "guidance is 2, but no class is given, and without one nothing guides an edit"),
        (["--schedule", "[[1],[1,2]]"], {}, 1, "schedule of scale 1 is [1, 2], which sums to 3, but the scale has 4"),
        (["--schedule", "1,3"], {}, 2, "'1,3' is not JSON; write lists of counts, as '[[1], [1, 3]]'."),
        (["--top-p", "0"], {}, 2, "top_p is 0; it must be above 0 and at most 1"),
        (["--sampling", "fast"], {}, 1, "sampling 'fast' is not in this bundle; it has "),
        (
            [],
            {"mask": None},
            2,
            "Missing option '--mask'; only --place, which draws around a smaller image, needs none",
        ),
        (["--place", "left"], {}, 2, "'left' is neither centre nor LEFT,TOP in pixels, for example 64,0."),
        (
            ["--place", "90,0"],
            {"image": "small.png", "mask": None},
            1,
            "of 80 × 64 pixels placed at 90,0 is not wholly",
        ),
        (["--place", "0,0"], {"image": "small.png"}, 1, "the mask has 144 × 144 pixels, but the image has 80 × 64"),
        (["--place", "0,0"], {"mask": None}, 1, "mask 0 is empty, so there is nothing to draw"),
    ],
)
def test_what_the_command_refuses_leaves_nothing(hmar_bundle, files, tmp_path, capsys, options, names, code, sentence):
    assert main(command(hmar_bundle, files, tmp_path / "out.png", *options, **names)) == code
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.npz", "out.jpg"])
def test_an_edit_is_written_as_png(hmar_bundle, files, tmp_path, capsys, name):
    assert main(command(hmar_bundle, files, tmp_path / name)) == 2
    assert f"{name} ends in {Path(name).suffix}, " in " ".join(capsys.readouterr().err.split())


def test_a_bundle_without_an_encoder_says_to_build_it_again(hmar_bundle, files, tmp_path, capsys):
    older = tmp_path / "older"
    shutil.copytree(hmar_bundle, older)
    manifest = json.loads((older / "manifest.json").read_text())
    del manifest["components"]["vae_encoder"]
    (older / "manifest.json").write_text(json.dumps(manifest))
    assert main(command(older, files, tmp_path / "out.png")) == 1
    assert (
        "older has no vae_encoder, which reads the images to be edited; build the bundle again with this version"
        in (" ".join(capsys.readouterr().err.split()))
    )
    assert len(Pipeline.load(older).generate([1], **QUICK).images) == 1


def test_a_recorded_tokenizer_gives_its_codes_exactly(hmar_bundle, capsys):
    recording = GOLDEN / "hmar-vae-narrow.npz"
    assert main(["verify", str(hmar_bundle), "--recording", str(recording), "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)["comparisons"]}
    assert found["vae_encoder 144: codes"]["max_abs"] == 0
    for name in ("vae_encoder 144: latent", "tokenizer 144: latents of codes", "vae_decoder 144: image"):
        assert found[name]["relative_l2"] < 1e-5
    assert len(found) == 4


@pytest.mark.parametrize(
    ("side", "channels", "sentence"),
    [
        (
            144,
            8,
            "the recording is of another model: x/f has shape (1, 8, 9, 9), this bundle's latents are (any, 16, 9, 9)",
        ),
        (160, 16, "the recording holds neither a run nor outputs of conditions, trunk, "),
    ],
)
def test_a_tokenizer_recorded_for_another_model(hmar_bundle, tmp_path, capsys, side, channels, sentence):
    image, latent = np.zeros((1, 3, side, side), np.uint8), np.zeros((1, channels, side // 16, side // 16), np.float32)
    np.savez(tmp_path / "r.npz", **{"x/image_u8": image, "x/f": latent})
    assert main(["verify", str(hmar_bundle), "--recording", str(tmp_path / "r.npz")]) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_the_encoder_stays_in_float32(tmp_path, capsys):
    build = ["build", str(GOLDEN / "hmar-narrow-144.pth"), "--out", str(tmp_path / "b")]
    assert main([*build, "--precision", "vae_encoder=fp16"]) == 2
    assert "precision fp16 of vae_encoder is impossible: rounding would change what an edit keeps" in (
        " ".join(capsys.readouterr().err.split())
    )
