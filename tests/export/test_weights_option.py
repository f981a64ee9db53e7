"""`--weights` of the verbs that take a checkpoint: which set of weights a bundle or a recording is made of."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar_export.cli import main
from himar_export.make.build import provenance

TINY = {
    "width": 32, "enc_depth": 1, "dec_depth": 1, "heads": 2, "classes": 3, "buffer": 2, "cond_scale": 2,
    "img_size": 16, "vae_stride": 4, "channels": 4, "mlp_depth": 1, "mlp_width": 32, "dit_depth": 1,
    "dit_width": 32, "dit_heads": 2,
    "sampling": {"low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2},
}  # fmt: skip


def state_of(seed: int) -> dict[str, torch.Tensor]:
    return dict(randomise(HiMAR(resolve(read_config(TINY), {}, "tiny")), seed).state_dict())


def recorded(file: Path, out: Path, *options: str) -> int:
    config = file.with_name("tiny.json")
    config.write_text(json.dumps(TINY))
    return main(["record", str(file), "--config", str(config), "--labels", "1", "--out", str(out), *options])


def test_a_recording_is_of_the_weights_that_were_named(tmp_path, capsys):
    torch.save({"net": state_of(0), "ema": {"shadow": state_of(1)}}, tmp_path / "m.pth")
    save_file(state_of(1), tmp_path / "plain.safetensors")
    latents = {}
    for name, options in {"none": (), "net": ("--weights", "net"), "shadow": ("--weights", "shadow")}.items():
        assert recorded(tmp_path / "m.pth", tmp_path / f"{name}.npz", *options) == 0
        assert ("took the weights ema.shadow, not net" in capsys.readouterr().err) == (name == "none")
        with np.load(tmp_path / f"{name}.npz") as file:
            latents[name] = file["run/latent"]
    assert recorded(tmp_path / "plain.safetensors", tmp_path / "plain.npz") == 0
    with np.load(tmp_path / "plain.npz") as file:
        assert np.array_equal(file["run/latent"], latents["none"])
    assert np.array_equal(latents["none"], latents["shadow"])
    assert not np.array_equal(latents["none"], latents["net"])
    assert recorded(tmp_path / "m.pth", tmp_path / "no.npz", "--weights", "model_ema") == 1
    assert "no entry 'model_ema' with weights; choose with --weights NAME from net and ema.shadow" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "no.npz").exists()


def test_a_bundle_names_the_entry_and_hashes_folders_and_shards(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file({"w": torch.zeros(2)}, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    origin = provenance(folder, None, "ema", ())
    assert origin["checkpoint"] == {"file": "hub", "sha256": digest}
    assert origin["weights"] == "ema"
    index = {"weight_map": {"w": "model.safetensors"}}
    (folder / "a.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "b.safetensors")
    index["weight_map"]["w"] = "b.safetensors"
    (folder / "a.safetensors.index.json").write_text(json.dumps(index))
    before = provenance(folder, None, None, ())["checkpoint"]["sha256"]
    save_file({"w": torch.ones(2)}, folder / "b.safetensors")
    assert provenance(folder, None, None, ())["checkpoint"]["sha256"] != before
