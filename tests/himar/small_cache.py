"""A few images, the VAE that encodes them and the settings of their cache, for the tests of cached latents."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himar.cli import main
from himar.data.cache import CacheSettings

ROOT = Path(__file__).parents[2]
VAE = ROOT / "himar" / "himar" / "weights" / "digits-vae.safetensors"
NARROW = Path(__file__).parents[1] / "golden" / "vae-narrow.ckpt"
SETTINGS = CacheSettings(img_size=32, dtype="float32", shard_size=5, batch=3, readers=2)


def write_images(root: Path) -> Path:
    """Write fourteen pictures of two classes, one of them damaged, and one file outside."""
    random = np.random.default_rng(0)
    for number in range(14):
        path = root / ("dog" if number % 3 else "cat") / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        low = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        low.resize((48, 40), Image.Resampling.BICUBIC).save(path)
    (root / "dog" / "05.png").write_bytes(b"no image")
    (root / "notes.txt").write_text("")
    return root


def run(*arguments: str | Path) -> int:
    """Run `himar` and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
