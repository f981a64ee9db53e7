"""The bundles that the GPU report measures, one for every installed backend, built by the code behind the command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

import himar
from himar.config import read_config, resolve
from himar.model import HiMAR, randomise
from himar_export.build import BuildRequest, build
from himar_runtime import Bundle

WEIGHTS = Path(himar.__file__).parent / "weights"


def checkpoint_of(model: str, work: Path) -> Path:
    """Return the checkpoint of a preset: the shipped one of digits, random weights of the others."""
    if model == "digits":
        return WEIGHTS / "digits.safetensors"
    path = work / f"{model}.safetensors"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        himar.save_checkpoint(randomise(HiMAR(resolve(read_config(model), {}, model)), 0), path)
    return path


def build_bundles(
    work: Path, model: str, precision: str, max_batch: int, backends: tuple[str, ...], device: str
) -> dict[str, Any]:
    """Build and verify a bundle per backend; what cannot be built is named with its error.

    Only digits have a decoder here: latents are compared and timed for the others.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_of(model, work)
    outcomes: dict[str, Any] = {"model": model, "checkpoint": str(checkpoint), "backends": {}}
    for backend in backends:
        if device == "cpu" and backend != "onnxruntime":
            outcomes["backends"][backend] = {"error": "needs a GPU"}
            continue
        out = work / f"{model}-{precision}-{backend}"
        start = time.perf_counter()
        try:
            if not out.exists():
                vae = WEIGHTS / "digits-vae.safetensors" if model == "digits" else None
                build(
                    BuildRequest(
                        checkpoint=checkpoint, out=out, vae=vae, precision=precision, max_batch=max_batch,  # type: ignore[arg-type]
                        backend=backend,
                    )
                )  # fmt: skip
        except Exception as error:  # one backend's failure is a result, and no reason to measure none
            outcomes["backends"][backend] = {"error": f"{type(error).__name__}: {error}"}
            continue
        raw = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        outcomes["backends"][backend] = {
            "bundle": str(out),
            "seconds": round(time.perf_counter() - start, 1),
            "bytes": sum(entry.bytes for entry in Bundle.open(out).manifest.files.values()),
            "engine": {name: entry["engine"] for name, entry in raw["components"].items()},
            "verification": raw.get("verification"),
            "verification_ran": raw.get("verification_ran"),
        }
    if device == "cuda":
        torch.cuda.empty_cache()
    return outcomes
