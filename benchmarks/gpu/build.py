"""Builds the bundles that benchmarks measure, one for every backend asked for, by the code behind the command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import himar
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar.vae.autoencoder import AutoencoderKL, VaeConfig
from himar_export.families.hi_mar.cost.family import KL16
from himar_export.graph.precision_choice import precision_of
from himar_export.make.build import BuildRequest, build
from himar_kernels import InputError
from himar_kernels.shared.files import file_sha256, new_file
from himar_runtime import Bundle

WEIGHTS = Path(himar.__file__).parent / "weights"
LATENT_SIZE = 1e-5
"""By which a random decoder shrinks latents: a random Hi-MAR's are some 100,000 times as large as a trained one's."""


def bundle_path(work: Path, model: str, precision: str, backend: str) -> Path:
    """Return where a bundle lies; it need not exist."""
    return work / f"{Path(model).stem}-{precision}-{backend}"


def checkpoint_path(model: str, work: Path) -> Path:
    """Return where a preset's checkpoint lies: digits' is shipped, others lie in `work` once they are made."""
    return WEIGHTS / "digits.safetensors" if model == "digits" else work / f"{Path(model).stem}.safetensors"


def decoder_path(model: str, work: Path) -> Path | None:
    """Return where the decoder's checkpoint lies: digits' own, a KL-16 of models with its tokens, else none."""
    if model == "digits":
        return WEIGHTS / "digits-vae.safetensors"
    config = resolve(read_config(model), {}, model)
    return (
        work / "kl16-random.safetensors"
        if (config.channels, config.vae_stride) == (KL16.channels, KL16.stride)
        else None
    )


def checkpoint_of(model: str, work: Path) -> Path:
    """Return a preset's checkpoint, with random weights where there is none yet."""
    path = checkpoint_path(model, work)
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        himar.save_checkpoint(randomise(HiMAR(resolve(read_config(model), {}, model)), 0), path)
    return path


def decoder_of(model: str, work: Path) -> Path | None:
    """Return the decoder's checkpoint, with random weights where there is none yet; None for models without one."""
    path = decoder_path(model, work)
    if path is not None and not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]), new_file(path) as unfinished:
            torch.manual_seed(0)
            weights = AutoencoderKL(VaeConfig()).state_dict()
            weights["post_quant_conv.weight"] *= LATENT_SIZE  # else half precision overflows in what comes after it
            save_file(weights, unfinished)
    return path


def build_bundles(
    work: Path, model: str, precision: str, max_batch: int, backends: tuple[str, ...], device: str
) -> dict[str, Any]:
    """Build and verify a bundle per backend, or find it built before.

    What cannot be built is named with its error, and so is one that was built from or for something else.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, vae = checkpoint_of(model, work), decoder_of(model, work)
    outcomes: dict[str, Any] = {
        "model": model, "checkpoint": str(checkpoint), "vae": None if vae is None else str(vae), "backends": {},
    }  # fmt: skip
    for backend in backends:
        if device == "cpu" and backend != "onnxruntime":
            outcomes["backends"][backend] = {"error": "needs a GPU"}
            continue
        out = bundle_path(work, model, precision, backend)
        start = time.perf_counter()
        try:
            if out.exists():
                bundle = Bundle.open(out)
                other = _difference(bundle, checkpoint, vae, precision, max_batch)
                if other is not None:
                    raise InputError(f"{out} was built {other}; remove it, or choose another folder.")
            else:
                build(
                    BuildRequest(
                        checkpoint=checkpoint, config=model, out=out, vae=vae, precision=precision,  # type: ignore[arg-type]
                        max_batch=max_batch, backend=backend,
                    )
                )  # fmt: skip
                bundle = Bundle.open(out)
        except Exception as error:  # one backend's failure is a result, and no reason to measure none
            outcomes["backends"][backend] = {"error": f"{type(error).__name__}: {error}"}
            continue
        raw = bundle.manifest.raw
        outcomes["backends"][backend] = {
            "bundle": str(out),
            "seconds": round(time.perf_counter() - start, 1),
            "bytes": sum(entry.bytes for entry in bundle.manifest.files.values()),
            "engine": {name: entry["engine"] for name, entry in raw["components"].items()},
            "verification": raw.get("verification"),
            "verification_ran": raw.get("verification_ran"),
        }
    if device == "cuda":
        torch.cuda.empty_cache()
    return outcomes


def _difference(bundle: Bundle, checkpoint: Path, vae: Path | None, precision: str, max_batch: int) -> str | None:
    """Return how a bundle built before is not what is asked for; None where it is. It may take more images at once."""
    manifest = bundle.manifest
    for name, source in (("checkpoint", checkpoint), ("vae", vae)):
        found = manifest.provenance.get(name, {}).get("sha256")
        if source is None and found is not None:
            return f"with a {name}, which this model does not have"
        if source is not None and found != file_sha256(source):
            return f"from another {name} than {source}"
    for name, component in manifest.components.items():
        if component.precision != precision_of(name, precision, {}):
            return f"with {name} in {component.precision}, not for {precision}"
    if manifest.max_batch < max_batch:
        return f"for up to {manifest.max_batch} images at once, not {max_batch}"
    return None
