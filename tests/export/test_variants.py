"""Bundles of the paper's variants: those whose phases the runtime runs give the model's numbers, others are refused."""

import json

import pytest

from himar.checkpoints import save_checkpoint
from himar.config import read_config, resolve
from himar.model import HiMAR, randomise
from himar.presets import vary
from himar_export.cli import main

SIZES = {
    "width": 32, "enc_depth": 1, "dec_depth": 2, "heads": 2, "classes": 3, "buffer": 2, "cond_scale": 2, "img_size": 64,
    "mlp_depth": 1, "mlp_width": 32, "dit_depth": 1, "dit_width": 32, "dit_heads": 2,
    "sampling": {"low_steps": 2, "high_steps": 3, "low_guidance": 2.0, "high_guidance": 2.0,
                 "low_diffusion_steps": 100, "high_diffusion_steps": 250},
}  # fmt: skip


def checkpoint(folder, values):
    path = folder / "model.safetensors"
    save_checkpoint(randomise(HiMAR(resolve(read_config(values), {})), 0).eval(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("scale_vector", ["none", "sinusoidal"])
def test_models_with_another_scale_vector_build_and_give_their_numbers(tmp_path, scale_vector, capsys):
    model = checkpoint(tmp_path, {**SIZES, "scale_vector": scale_vector})
    out = tmp_path / "bundle"
    # `build` keeps a bundle only if its engines give the eager model's numbers.
    assert main(["build", str(model), "--out", str(out), "--json"]) == 0
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    assert json.loads((out / "manifest.json").read_text())["model"]["scale_vector"] == scale_vector


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        ("single-scale", "pivots is 'none'"),
        ("visual", "pivots is 'visual'"),
        ("condition", "high_head is 'mlp'"),
        ("dit-both", "low_head is 'dit'"),
    ],
)
@pytest.mark.parametrize("command", ["build", "record"])
def test_variants_with_other_phases_are_refused_and_leave_nothing(tmp_path, variant, text, command, capsys):
    model = checkpoint(tmp_path, vary(SIZES, variant))
    more = (
        ["--labels", "0", "--out", str(tmp_path / "out.npz")] if command == "record" else ["--out", str(tmp_path / "b")]
    )
    assert main([command, str(model), *more]) == 1
    assert text in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
