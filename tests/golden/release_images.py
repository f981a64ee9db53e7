"""Writes the images that a release's shipped models make, and checks others against them.

    python -m tests.golden.release_images

builds the shipped models, generates every case and stores what changed in tests/golden/release: a PNG for each case,
and cases.json with its seed, settings and the hash of its rounded latents. Run it before a release whose images may
change, and look at what changed; tests/runtime/test_release_images.py compares every other build and library with them.
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

BUILDS: Mapping[str, tuple[str, ...]] = {
    "digits": ("digits.safetensors", "--config", "digits", "--vae", "digits-vae.safetensors"),
    "digits-editing": ("digits.safetensors", "--config", "digits", "--vae", "digits-vae.safetensors", "--editing"),
    "scenes": ("scenes/scenes.safetensors", "--vae", "scenes/scenes-vae.safetensors", "--text", "scenes/scenes-text"),
    "hmar-digits": ("hmar-digits.safetensors", "--config", "hmar-digits", "--vae", "hmar-digits-vae.safetensors"),
}
"""What builds each bundle of a shipped model, but for --out; files are in WEIGHTS."""


@dataclass(frozen=True)
class Case:
    """One image.

    model: of BUILDS. request: what `Pipeline.generate` takes besides the seed. edits: the case whose image's right half
    is drawn anew; "" makes a whole image.
    """

    model: str
    seed: int
    request: Mapping[str, Any]
    edits: str = ""


CASES: Mapping[str, Case] = {
    "digits-default": Case("digits", 7, {"labels": [3]}),
    "digits-fast": Case("digits", 7, {"labels": [5], "sampling": "fast"}),
    "digits-forecast": Case("digits", 8, {"labels": [8], "sampling": "forecast"}),
    "digits-edit": Case("digits-editing", 9, {"labels": [2]}, edits="digits-default"),
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


def write(load: Callable[[str], Pipeline]) -> dict[str, str]:
    """Make every case and store those that changed; load: gives a model's pipeline. Returns what became of each.

    A case whose latents have the stored hash stays as it is, its image too: on another CPU they differ by rounding.
    """
    FOLDER.mkdir(exist_ok=True)
    before = stored() if (FOLDER / "cases.json").exists() else {}
    found, news = {}, {}
    for name, case in CASES.items():
        result, then = make(load(case.model), name), before.get(name)
        assert result.images is not None  # every shipped model has a decoder
        if then and then.case == asdict(case) and rounded_sha256(result.latents, then.offset) == then.sha256:
            found[name], news[name] = then, "as before"
            continue
        Image.fromarray(result.images[0]).save(FOLDER / f"{name}.png", optimize=True)
        found[name], news[name] = golden(result.latents, case), "CHANGED" if then else "new"
    for path in FOLDER.glob("*.png"):
        if path.stem not in CASES:
            path.unlink()
    text = json.dumps(
        {"himar": himar_version(), "cases": {name: asdict(each) for name, each in found.items()}}, indent=1
    )
    (FOLDER / "cases.json").write_text(text + "\n", encoding="utf-8")
    return {name: f"{each}; a latent may move by {found[name].margin:.1e}" for name, each in news.items()}


def arguments(model: str) -> list[str]:
    """Return a build's arguments, files with their folder."""
    return [str(WEIGHTS / part) if (WEIGHTS / part).exists() else part for part in BUILDS[model]]


def main() -> int:
    """Build, generate and write."""
    with tempfile.TemporaryDirectory(prefix="himar-release-") as folder:
        for model in BUILDS:
            if export(["build", *arguments(model), "--no-memory", "--json", "--out", f"{folder}/{model}"]):
                return 1
        pipelines = {model: Pipeline.load(f"{folder}/{model}") for model in BUILDS}
        for name, news in write(pipelines.__getitem__).items():
            sys.stdout.write(f"{name}: {news}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
