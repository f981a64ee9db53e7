"""Write the bundles that the C++ tests use: write_bundles.py FOLDER. They are those of tests/runtime/conftest.py."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from himar_runtime import Pipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.runtime.conftest import write_bundle
from tests.runtime.tiny_hmar import write_hmar_bundle
from tests.runtime.tiny_text import write_text_bundle

# Requests whose latents the C++ loops must give too.
REQUESTS: tuple[dict[str, Any], ...] = (
    {"labels": [1, 3, 0], "seed": 2**63 + 5, "first_index": 7, "low_guidance": 1.5, "high_guidance": 2.0},
    {"labels": [4], "seed": 3, "first_index": 2**32 - 6, "low_guidance": 1.0, "high_guidance": 3.0},
    {"labels": [2, 2, 1, 0], "seed": 11, "first_index": 0, "low_guidance": 2.0, "high_guidance": 1.0},
    {"labels": [0, 4], "seed": 5, "first_index": 2, "low_guidance": 1.5, "high_guidance": 2.0,
     "low_solver": "dpm++", "high_solver": "ddim"},
    {"labels": [3], "seed": 6, "first_index": 0, "low_guidance": 1.0, "high_guidance": 2.0, "high_solver": "dpm++"},
    {"labels": [1, 0], "seed": 7, "first_index": 3, "low_guidance": 1.5, "high_guidance": 2.0, "low_forecast": 3,
     "high_forecast": 4, "low_diffusion_steps": 14, "high_diffusion_steps": 20, "guidance_interval": 2},
    {"labels": [2], "seed": 8, "first_index": 0, "low_guidance": 2.0, "high_guidance": 2.0, "high_forecast": 2,
     "high_diffusion_steps": 16, "forecast_order": 2, "forecast_first": 3, "high_solver": "ddim"},
    {"labels": [4, 3], "seed": 9, "first_index": 1, "low_steps": 2, "high_steps": 3, "low_guidances": [1.0, 2.5],
     "high_diffusion_counts": [9, 5, 5], "low_diffusion_counts": [4, 8], "least_guidance": 1.2, "high_guidance": 2.0},
)  # fmt: skip


def python_latents(bundle: Path) -> list[dict[str, Any]]:
    """Return what the Python runtime generates for every request, latents flat."""
    pipeline, runs = Pipeline.load(bundle, threads=1), []
    for request in REQUESTS:
        arguments = {key: value for key, value in request.items() if key != "labels"}
        result = pipeline.generate(request["labels"], **arguments)
        arrays = {"latents": result.latents, "low_latents": result.low_latents}
        settings = result.recipes[0].sampling.to_dict()
        runs.append(request | {"settings": settings} | {name: each.ravel().tolist() for name, each in arrays.items()})
    return runs


def main(folder: Path) -> None:
    """Write each bundle into a folder of its own, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_bundle(folder / "tiny", max_batch=4)
    write_bundle(folder / "no-decoder", decoder=False)
    write_bundle(folder / "tiny-edit", max_batch=4, editing=True)
    write_bundle(folder / "tiny-held", max_batch=4, held=True)
    write_bundle(folder / "nan-vae_encoder", editing=True, poison={"vae_encoder": float("nan")})
    write_hmar_bundle(folder / "tiny-hmar", max_batch=4)
    write_hmar_bundle(folder / "tiny-hmar-no-encoder", encoder=False)
    write_hmar_bundle(folder / "tiny-hmar-nan", poison={"vae_encoder": float("nan")})
    write_text_bundle(folder / "tiny-text", max_batch=4)
    write_text_bundle(folder / "tiny-text-edit", max_batch=4, editing=True)
    write_text_bundle(folder / "contexts-alone", encoder=False)
    write_text_bundle(folder / "nan-text_encoder", poison={"text_encoder": float("nan")})
    (folder / "tiny-python.json").write_text(json.dumps(python_latents(folder / "tiny")))
    for name in ("transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder"):
        write_bundle(folder / f"nan-{name}", poison={name: float("nan")})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
