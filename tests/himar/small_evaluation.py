"""A tiny model, real digits, and `himar evaluate` on them, for its tests."""

from pathlib import Path

import numpy as np
import pytest

from himar.cli import main
from himar.data.digits import load_digits_split
from himar.families.hi_mar.checkpoints import save_checkpoint
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar_kernels import to_uint8

VAE = Path(__file__).parents[2] / "himar" / "himar" / "weights" / "digits-vae.safetensors"
TINY = {
    "width": 32, "enc_depth": 1, "dec_depth": 1, "heads": 2, "classes": 10, "buffer": 2, "cond_scale": 4,
    "img_size": 32, "vae_stride": 4, "channels": 4, "mlp_depth": 1, "mlp_width": 32, "dit_depth": 1,
    "dit_width": 32, "dit_heads": 2,
    "sampling": {"low_steps": 2, "high_steps": 2, "low_diffusion_steps": 2, "high_diffusion_steps": 2},
}  # fmt: skip


def write_model(path: Path) -> Path:
    """Write a tiny model with random weights; its latents are those of the digits' VAE."""
    save_checkpoint(randomise(HiMAR(resolve(read_config(TINY), {}, "tiny")), 0), path)
    return path


def write_digits(folder: Path) -> tuple[Path, Path]:
    """Write real digits as .npz: training and held-out."""
    paths = folder / "train.npz", folder / "held-out.npz"
    for path, part in zip(paths, load_digits_split(), strict=True):
        np.savez(path, to_uint8(part.images.numpy()))
    return paths


def run(*arguments: str | Path) -> int:
    """Run `himar` and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def make(model: Path, out: Path, *more: str) -> int:
    """Make twenty images of a model, and measure them where `more` asks for it; return the exit code."""
    return run("evaluate", model, "--vae", VAE, "--images", "20", "--chunk", "6", "--seed", "5", "--out", out, *more)


def one_error(capsys) -> str:
    """Return the last line on stderr, which must be an error's sentence."""
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("error: ")
    return text
