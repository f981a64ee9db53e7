"""A very small model with random weights, for what does not depend on a model's size."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from himar import save_checkpoint
from himar.config import resolve
from himar.model import HiMAR, randomise
from himar_export.cli import main

SIZES = {
    "width": 32, "enc_depth": 1, "dec_depth": 1, "heads": 2, "classes": 3, "buffer": 2, "cond_scale": 2,
    "img_size": 16, "vae_stride": 4, "channels": 4, "mlp_depth": 1, "mlp_width": 32, "dit_depth": 1, "dit_width": 32,
    "dit_heads": 2,
}  # fmt: skip


def _checkpoint(path: Path, seed: int, **changes: int) -> Path:
    save_checkpoint(randomise(HiMAR(resolve({**SIZES, **changes}, {})), seed), path)
    return path


@pytest.fixture(scope="session")
def small_checkpoint() -> Callable[..., Path]:
    """Writes a checkpoint: path, seed, changed sizes."""
    return _checkpoint


@pytest.fixture(scope="session")
def small_rtx_bundle(bundles) -> Path:
    """Of seed 2, in fp16, up to three images, for TensorRT-RTX; built once for all workers of a run."""
    pytest.importorskip("tensorrt_rtx")
    out, cache = bundles / "small-rtx", bundles / "engine-cache"
    with FileLock(bundles / "small-rtx.lock"):
        if not out.exists():
            checkpoint = _checkpoint(bundles / "small-2.safetensors", 2)
            build = ["build", str(checkpoint), "--fp16", "--max-batch", "3", "--backend", "tensorrt-rtx"]
            assert main([*build, "--cache", str(cache), "--out", str(out), "--json"]) == 0
    return out
