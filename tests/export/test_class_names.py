"""Names of classes in a bundle: from the checkpoint's, through a refit, to `generate` and `record`."""

import json
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from himar.families.hi_mar.checkpoints import load_checkpoint, save_checkpoint
from himar_export.cli import main
from himar_runtime import Bundle

NAMES = ("cat", "10", "owl, great")
FAST = ("--low-steps", "2", "--high-steps", "2", "--low-diffusion-steps", "2", "--high-diffusion-steps", "2")


@pytest.fixture
def named(bundles, small_checkpoint) -> tuple[Path, Path]:
    """A bundle of three named classes, built once for all workers, and its checkpoint."""
    out = bundles / "named"
    checkpoint = bundles / "named.safetensors"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            model = load_checkpoint(small_checkpoint(checkpoint, 4))
            model.class_names = NAMES
            save_checkpoint(model, checkpoint)
            assert main(["build", str(checkpoint), "--max-batch", "2", "--out", str(out), "--json"]) == 0
    return out, checkpoint


def latents(path: Path) -> np.ndarray:
    with np.load(path) as file:
        return file["latents"]


def test_generate_takes_names_and_warns_of_numbers_that_are_names(named, tmp_path, capsys):
    bundle, _ = named
    assert Bundle.open(bundle).manifest.class_names == NAMES
    assert json.loads((bundle / "manifest.json").read_text())["model"]["class_names"] == list(NAMES)

    def generate(labels: str, out: str) -> int:
        return main(["generate", str(bundle), "--labels", labels, *FAST, "--out", str(tmp_path / out), "--json"])

    assert generate('"owl, great",cat,"10"', "names.npz") == 0
    assert generate("2,0,1", "numbers.npz") == 0
    assert np.array_equal(latents(tmp_path / "names.npz"), latents(tmp_path / "numbers.npz"))
    capsys.readouterr()
    assert generate("cats", "x.npz") == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "'cats' is not a class of" in said
    assert "the nearest names are 'cat'" in said
    assert not (tmp_path / "x.npz").exists()


def test_record_takes_names(named, tmp_path, capsys):
    _, checkpoint = named
    command = ["record", str(checkpoint), *FAST, "--labels"]
    assert main([*command, "cat", "--out", str(tmp_path / "r.npz"), "--json"]) == 0
    assert main([*command, "dog", "--out", str(tmp_path / "s.npz"), "--json"]) == 2
    assert not (tmp_path / "s.npz").exists()


def test_a_refit_with_a_checkpoint_without_names_keeps_them(named, tmp_path, small_checkpoint):
    unnamed = small_checkpoint(tmp_path / "unnamed.safetensors", 5)
    assert main(["refit", str(named[0]), str(unnamed), "--out", str(tmp_path / "refitted"), "--json"]) == 0
    assert Bundle.open(tmp_path / "refitted").manifest.class_names == NAMES
