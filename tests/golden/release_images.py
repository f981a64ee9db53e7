"""Writes the images that a release's shipped models make, and checks others against them.

    python -m tests.golden.release_images

builds the shipped models, generates every case and replaces the files in tests/golden/release: a PNG for each case, and
cases.json with its seed, settings and the hash of its rounded latents. Run it before a release whose images may change,
and look at what changed; tests/runtime/test_release_images.py compares every other build and library with them.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himar_export.cli import main as export
from himar_runtime import Pipeline, Result
from himar_runtime.pipeline import himar_version

FOLDER = Path(__file__).parent / "release"
WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"

STEP = 0.5
"""Latents are rounded to multiples of it, counted from the case's own offset."""

BUILDS: Mapping[str, tuple[Path, ...]] = {
    "digits": (WEIGHTS / "digits.safetensors", WEIGHTS / "digits-vae.safetensors"),
    "scenes": (WEIGHTS / "scenes/scenes.safetensors", WEIGHTS / "scenes/scenes-vae.safetensors",
               WEIGHTS / "scenes/scenes-text"),
    "hmar-digits": (WEIGHTS / "hmar-digits.safetensors", WEIGHTS / "hmar-digits-vae.safetensors"),
}  # fmt: skip
"""Checkpoint, VAE and text tower of each shipped model."""


@dataclass(frozen=True)
class Case:
    """One image.

    request: what `Pipeline.generate` takes besides the seed. edits: the case whose image's right half is drawn anew;
    "" makes a whole image.
    """

    model: str
    seed: int
    request: Mapping[str, Any]
    edits: str = ""


CASES: Mapping[str, Case] = {
    "digits-default": Case("digits", 7, {"labels": [3]}),
    "digits-fast": Case("digits", 7, {"labels": [5], "sampling": "fast"}),
    "digits-forecast": Case("digits", 8, {"labels": [8], "sampling": "forecast"}),
    "scenes-default": Case("scenes", 7, {"prompts": ["a red three left of a blue seven"]}),
    "hmar-digits-default": Case("hmar-digits", 7, {"labels": [4]}),
    "hmar-digits-refined": Case("hmar-digits", 8, {"labels": [2], "sampling": "refined"}),
    "hmar-digits-edit": Case("hmar-digits", 9, {"labels": [9]}, edits="hmar-digits-default"),
}


@dataclass(frozen=True)
class Golden:
    """What is stored of a case's latents beside its image.

    offset: halfway between the two neighbours that lie farthest apart of all latents modulo STEP, so that no latent is
    near a border. margin: how far each may move before the hash is another.
    """

    shape: tuple[int, ...]
    offset: float
    margin: float
    sha256: str
    case: Mapping[str, Any] = field(default_factory=dict)


def golden(latents: NDArray[np.float32], case: Case) -> Golden:
    """Return what is stored of latents."""
    places = np.sort(np.unique(np.mod(latents.astype(np.float64), STEP)))
    gaps = np.diff(places, append=places[0] + STEP)
    widest = int(np.argmax(gaps))
    offset = float(np.float32((places[widest] + gaps[widest] / 2) % STEP))
    return Golden(
        latents.shape, offset, float(np.float32(gaps[widest] / 2)), rounded_sha256(latents, offset), asdict(case)
    )


def rounded_sha256(latents: NDArray[np.float32], offset: float) -> str:
    """Return the hash of latents rounded down to a multiple of STEP beyond an offset, as little-endian int32."""
    rounded = np.floor((latents.astype(np.float64) - offset) / STEP).astype("<i4")
    return hashlib.sha256(rounded.tobytes()).hexdigest()


def make(pipeline: Pipeline, name: str) -> Result:
    """Generate a case; what it edits is read from its stored PNG."""
    case = CASES[name]
    if not case.edits:
        return pipeline.generate(seed=case.seed, **case.request)
    image = stored_image(case.edits)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[:, image.shape[1] // 2 :] = True
    return pipeline.edit([image], [mask], seed=case.seed, **case.request)


def stored_image(name: str) -> NDArray[np.uint8]:
    """Return a case's image uint8 (P, P, 3)."""
    return np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB"))


def stored() -> dict[str, Golden]:
    """Return what is stored of every case."""
    entries = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))["cases"]
    return {name: Golden(**{**entry, "shape": tuple(entry["shape"])}) for name, entry in entries.items()}


def write(load: Callable[[str], Pipeline]) -> dict[str, Golden]:
    """Replace the stored images and hashes; load: gives a model's pipeline. Returns what was stored."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.png"):
        path.unlink()
    found = {}
    for name in CASES:
        result = make(load(CASES[name].model), name)
        assert result.images is not None  # every shipped model has a decoder
        Image.fromarray(result.images[0]).save(FOLDER / f"{name}.png", optimize=True)
        found[name] = golden(result.latents, CASES[name])
    text = json.dumps(
        {"himar": himar_version(), "cases": {name: asdict(each) for name, each in found.items()}}, indent=1
    )
    (FOLDER / "cases.json").write_text(text + "\n", encoding="utf-8")
    return found


def arguments(model: str) -> list[str]:
    """Return what builds a shipped model, but for --out."""
    checkpoint, vae, *text = map(str, BUILDS[model])
    config = ["--config", model] if model != "scenes" else ["--text", *text]
    return [checkpoint, "--vae", vae, *config]


def main() -> int:
    """Build, generate and write."""
    with tempfile.TemporaryDirectory(prefix="himar-release-") as folder:
        for model in BUILDS:
            if export(["build", *arguments(model), "--no-memory", "--json", "--out", f"{folder}/{model}"]):
                return 1
        pipelines = {model: Pipeline.load(f"{folder}/{model}") for model in BUILDS}
        before = stored() if (FOLDER / "cases.json").exists() else {}
        after = write(pipelines.__getitem__)
    for name, each in after.items():
        known = before.get(name)
        news = "new" if known is None else "as before" if known.sha256 == each.sha256 else "CHANGED"
        sys.stdout.write(f"{name}: {news}; a latent may move by {each.margin:.1e}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
