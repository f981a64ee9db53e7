"""Images from texts through the commands: prompts as options and as files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from himar_export.cli import main
from himar_runtime import Pipeline, read_recipes
from tests.runtime.tiny_text import write_text_bundle

PLAIN = ["--sampling", "plain"]


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_text_bundle(tmp_path_factory.mktemp("text") / "bundle")


def test_generate_makes_images_of_prompts_and_of_files(bundle, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("two red\n\n  red \n", encoding="utf-8")
    (tmp_path / "list.json").write_text(json.dumps(["two red", "red"]), encoding="utf-8")
    images = {}
    for name, options in {
        "options": ["--prompt", "two red", "--prompt", "red"],
        "lines": ["--prompts-file", tmp_path / "lines.txt"],
        "list": ["--prompts-file", tmp_path / "list.json"],
        "both": ["--prompts-file", tmp_path / "nothing.txt", "--prompt", "two red"],
    }.items():
        (tmp_path / "nothing.txt").write_text("red")
        assert run("generate", bundle, *options, *PLAIN, "--seed", 4, "--out", tmp_path / f"{name}.npz") == 0
        images[name] = np.load(tmp_path / f"{name}.npz")["latents"]
    expected = Pipeline.load(bundle).generate(prompts=["two red", "red"], seed=4, sampling="plain").latents
    for name, latents in images.items():
        np.testing.assert_array_equal(latents, expected, name)
    capsys.readouterr()


def test_a_grid_has_a_row_of_each_prompt_and_cut_prompts_are_named(bundle, tmp_path, capsys):
    long = "two two two two red"
    command = ["generate", bundle, "--prompt", "red", "--prompt", long, "--count", 3, *PLAIN]
    assert run(*command, "--out", tmp_path / "grid.png", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["truncated"] == [1]
    assert "longer than the 6 tokens that the model takes, so that their ends were cut: prompts 1" in printed.err
    assert [recipe.prompt for recipe in read_recipes(tmp_path / "grid.png")] == ["red"] * 3 + [long] * 3
    assert run("inspect", tmp_path / "grid.png") == 0
    assert long in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ([], 2, "nothing says what to make; give --labels for a model of classes, --prompt or --prompts-file"),
        (["--labels", "1", "--prompt", "red"], 2, "--labels and prompts are both given"),
        (["--labels", "1"], 1, "labels are given, but this bundle's model makes images from text"),
        (["--prompt", "<|endoftext|>"], 1, "holds <|endoftext|>"),
        (["--prompts-file", "missing.txt"], 2, "missing.txt cannot be read: No such file or directory"),
        (["--prompts-file", "blank.txt"], 2, "blank.txt holds no prompt"),
        (["--prompts-file", "latin.txt"], 2, "latin.txt is not UTF-8 text (byte 2)"),
        (["--prompts-file", "object.json"], 2, "object.json holds no JSON list of texts"),
        (["--prompts-file", "broken.json"], 2, "broken.json is not valid JSON"),
    ],
)
def test_what_cannot_be_made_is_refused(bundle, tmp_path, capsys, monkeypatch, options, code, sentence):
    monkeypatch.chdir(tmp_path)
    contents = {"blank.txt": b"\n \n", "latin.txt": b"gr\xf6sser", "object.json": b'{"a": 1}', "broken.json": b"["}
    for name, content in contents.items():
        Path(name).write_bytes(content)
    assert run("generate", bundle, *options, "--out", "images") == code
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not Path("images").exists()
