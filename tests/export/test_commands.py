"""The verbs as a person uses them: what they write, what they print, and how they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himar_export.cli import cli, main
from himar_runtime import Pipeline, read_recipes
from tests.closeness import assert_same_pixels

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
FAST = ["--low-steps", "2", "--high-steps", "1", "--low-diffusion-steps", "5", "--high-diffusion-steps", "5"]


def run(capsys, *arguments, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err.strip()


@pytest.mark.parametrize("verb", sorted(cli.verbs))
def test_every_verb_explains_itself_with_an_example(capsys, verb):
    assert f"Example: himar-export {verb}" in run(capsys, verb, "--help")


def test_generate_writes_a_sheet_with_a_row_per_class_and_its_recipes(capsys, digits_bundle, tmp_path):
    out = tmp_path / "sheet.png"
    printed = run(
        capsys, "generate", digits_bundle, "--labels", "3,5", "--count", "3", "--seed", "4", *FAST, "--out", out
    )
    assert printed.startswith("6 images in ")
    assert Image.open(out).size == (3 * 34 - 2, 2 * 34 - 2)
    assert [recipe.label for recipe in read_recipes(out)] == [3, 3, 3, 5, 5, 5]
    again = Pipeline.load(digits_bundle).generate(**read_recipes(out)[4].request()).images[0]
    pixels = np.asarray(Image.open(out))[34:66, 34:66]
    assert_same_pixels(pixels, again)


def test_generate_writes_a_folder_of_pngs(capsys, digits_bundle, tmp_path):
    run(capsys, "generate", digits_bundle, "--labels", "1-2", "--seed", "4", *FAST, "--out", tmp_path / "d")
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["4-00000-1.png", "4-00001-2.png"]


def test_a_path_is_printed_as_it_is(capsys, digits_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("[red].npz", "[/b].npz"):
        Path(name).parent.mkdir(exist_ok=True)
        assert f"→ {name}" in run(capsys, "generate", digits_bundle, "--labels", "1", *FAST, "--out", name)


@pytest.mark.parametrize(
    "name",
    ["photo.jpg", "photo.JPEG", "photo.webp", "photo.gif", "photo.tif", "photo.avif", "photo.ppm", "a.npy", "a.zip"],
)
def test_another_kind_of_file_is_wrong_usage_before_any_work(capsys, tmp_path, name):
    message = run(capsys, "generate", tmp_path / "absent", "--labels", "1", "--out", tmp_path / name, code=2)
    ending = name[name.index(".") :]
    assert f"{name} ends in {ending}, which cannot be written; give a .png or .npz, or a folder." in " ".join(
        message.split()
    )
    bench = ("bench", tmp_path / "absent", "--checkpoint", tmp_path / "absent.pth")
    assert "give a folder for the .png files" in " ".join(
        run(capsys, *bench, "--plots", tmp_path / name, code=2).split()
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_have_a_dot_in_its_name(capsys, digits_bundle, tmp_path):
    for name in ("run-1.5", "taken.jpg-s"):
        run(capsys, "generate", digits_bundle, "--labels", "1", *FAST, "--out", tmp_path / name)
        assert len(list((tmp_path / name).glob("*.png"))) == 1


@pytest.mark.parametrize("name", ["x.npz", "x.NPZ"])
def test_generate_writes_latents(capsys, digits_bundle, tmp_path, name):
    run(capsys, "generate", digits_bundle, "--labels", "1", *FAST, "--out", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with np.load(tmp_path / name) as arrays:
        assert arrays["latents"].shape == (1, 4, 8, 8)
        assert arrays["low_latents"].shape == (1, 4, 4, 4)
        assert json.loads(str(arrays["recipes"]))[0]["label"] == 1


def test_a_bundle_without_decoder_gives_latents_and_says_so(capsys, narrow_256_bundle, tmp_path):
    arguments = ("generate", narrow_256_bundle, "--labels", "1", *FAST)
    message = run(capsys, *arguments, "--out", tmp_path / "x.png", code=1)
    assert "has no VAE decoder, so it produces latents, not images; use --out FILE.npz" in message
    assert list(tmp_path.iterdir()) == []
    run(capsys, *arguments, "--out", tmp_path / "x.npz")
    assert "no VAE decoder: this bundle produces latents" in run(capsys, "inspect", narrow_256_bundle)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--labels", "10"], "label 10 (number 0 of the list) is not a class of this model"),
        (["--labels", "1", "--low-steps", "17"], "phase low has only 16 positions"),
        (["--labels", "1", "--high-steps", "65"], "phase high has only 64 positions"),
        (["--labels", "1", "--sampling", "slow"], "sampling 'slow' is not in this bundle"),
    ],
)
def test_requests_that_cannot_be_met(capsys, digits_bundle, tmp_path, arguments, text):
    message = run(capsys, "generate", digits_bundle, *arguments, "--out", tmp_path / "x.png", code=1)
    assert message.startswith("error: ")
    assert text in message
    assert list(tmp_path.iterdir()) == []


def test_a_named_setting_with_a_solver_is_in_the_recipe(capsys, digits_bundle, tmp_path):
    generate = ("generate", digits_bundle, "--labels", "7", "--sampling", "fast", "--out")
    run(capsys, *generate, tmp_path / "x.png", "--low-steps", "2")
    sampling = json.loads(run(capsys, "inspect", tmp_path / "x.png", "--json"))["sampling"]
    assert (sampling["low_solver"], sampling["high_solver"], sampling["low_steps"]) == ("dpm++", "dpm++", 2)
    message = run(capsys, *generate, tmp_path / "y.png", "--temperature", "0.9", code=1)
    assert "temperature is 0.9, but it scales the noise of reverse steps and solver 'dpm++' adds none" in message


def test_an_output_that_exists_is_kept(capsys, digits_bundle, tmp_path):
    (tmp_path / "x.png").write_text("mine")
    (tmp_path / "x.npz").write_text("mine")
    for name, verb in (
        ("x.png", ["generate", digits_bundle, "--labels", "1"]),
        ("x.npz", ["record", WEIGHTS / "digits.safetensors", "--labels", "1"]),
    ):
        message = run(capsys, *verb, "--out", tmp_path / name, code=1)
        assert "exists already" in message
        assert (tmp_path / name).read_text() == "mine"


def test_an_image_with_forecasts_and_lists_comes_again_from_its_recipe(capsys, digits_bundle, tmp_path):
    out = tmp_path / "x.png"
    lists = ("--high-diffusion-counts", "24,14", "--high-guidances", "1.5,2", "--low-diffusion-steps", "4")
    run(capsys, "generate", digits_bundle, "--labels", "3", "--high-forecast", "4", "--forecast-order", "0", *lists,
        "--guidance-interval", "2", "--low-steps", "1", "--out", out)  # fmt: skip
    shown = run(capsys, "inspect", out)
    assert "high_diffusion_counts  [24, 14]" in shown
    (recipe,) = read_recipes(out)
    assert (recipe.sampling.high_forecast, recipe.sampling.high_guidances) == (4, (1.5, 2.0))
    again = Pipeline.load(digits_bundle).generate(**recipe.request()).images[0]
    np.testing.assert_array_equal(again, np.asarray(Image.open(out)))


def test_inspect_explains_a_bundle_part_by_part(capsys, digits_bundle):
    text = run(capsys, "inspect", digits_bundle)
    for word in (
        "transformer_low",
        "vae_decoder",
        "encoder",
        "on disk",
        "weights.bin",
        "fp32",
        "low_steps",
        "fast",
        "dpm++",
    ):
        assert word in text
    manifest = json.loads(run(capsys, "inspect", digits_bundle, "--json"))
    assert manifest["schema_version"] == "1.3"
    assert {key: list(manifest[key]) for key in ("sampling", "solver_sampling", "forecast_sampling")} == {
        "sampling": ["default", "paper"],
        "solver_sampling": ["fast"],
        "forecast_sampling": ["forecast"],
    }
    assert all(row["passed"] for row in manifest["verification"])
    assert len(manifest["provenance"]["checkpoint"]["sha256"]) == 64


def test_inspect_reads_the_recipe_of_a_png(capsys, digits_bundle, tmp_path):
    run(capsys, "generate", digits_bundle, "--labels", "7", "--seed", "12", *FAST, "--out", tmp_path / "x.png")
    recipe = json.loads(run(capsys, "inspect", tmp_path / "x.png", "--json"))
    assert (recipe["seed"], recipe["label"], recipe["sampling"]["low_steps"]) == (12, 7, 2)
    assert "seed" in run(capsys, "inspect", tmp_path / "x.png")


def test_verify_finds_a_changed_file(capsys, digits_bundle, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(digits_bundle, copy)
    data = bytearray((copy / "weights.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "weights.bin").write_bytes(data)
    assert "does not have the manifest's sha256" in run(capsys, "verify", copy, code=1)
