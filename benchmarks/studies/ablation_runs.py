"""Does one run of the ablation: trains a variant of the paper's table 5 on the digits, samples and measures it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.studies.measure import WEIGHTS, Judge, even_labels
from benchmarks.studies.record import FIGURES, fields, require_numbers
from himar.data.digits import load_digits_split
from himar.data.latents import LatentSet
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.config import ModelConfig, read_config, resolve
from himar.families.hi_mar.digits import DIGITS_MODEL, digit_latents
from himar.families.hi_mar.presets import vary
from himar.families.hi_mar.training_settings import TrainingSettings, changed_settings
from himar.images import sample_images
from himar.training.optimise import OnStep
from himar.training.run import Outputs, run_training
from himar.vae.autoencoder import AutoencoderKL
from himar.vae.layouts import load_vae
from himar_kernels import ConfigError, PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.shared.files import file_sha256, write_json

RESULT_FILE = "result.json"

SIZES = {
    **{"width": 32, "heads": 1, "enc_depth": 1, "dec_depth": 1, "mlp_depth": 2, "mlp_width": 48},
    **{"dit_depth": 2, "dit_width": 32, "dit_heads": 1},
}
"""In place of the digits preset's: a budget of minutes teaches a small model more than a large one."""
RATE = 3e-3

SAMPLING = {
    **{"low_steps": 8, "high_steps": 2, "low_diffusion_steps": 100, "high_diffusion_steps": 100},
    **{"low_guidance": 2.0, "high_guidance": 2.5, "guidance_schedule": "constant", "temperature": 0.9},
}
"""Of every variant. The first step of 100 diffusion steps magnifies an error by 316, that of the preset's 32 by 1,012,
which a short training does not bear (`Chain.first_step_gain`)."""

OWN, SHORT = "own", "short"
"""The two sets of sampling steps: see `samplings`."""


@dataclass(frozen=True)
class Budget:
    """What every run of an ablation gets: training steps of `batch` images, and images that are measured."""

    steps: int
    batch: int
    images: int

    def settings(self) -> TrainingSettings:
        """Return the shipped digits' recipe at this length and rate; weights are averaged over a tenth of the run."""
        ema = 1 - 10 / max(self.steps, 20)
        return changed_settings(
            DIGITS_MODEL, steps=self.steps, batch=self.batch, rate=RATE, ema=ema, snapshot_every=100
        )


@dataclass(frozen=True)
class Bench:
    """What all runs share: the shipped VAE, the digits as its latents, and the judge of images."""

    vae: AutoencoderKL
    latents: LatentSet
    judge: Judge

    @staticmethod
    def open() -> Bench:
        """Load the shipped VAE and encode the training digits."""
        vae = load_vae(WEIGHTS / "digits-vae.safetensors")
        return Bench(vae, digit_latents(vae, load_digits_split()[0]), Judge())


def variant_config(variant: str) -> ModelConfig:
    """Return a variant of the digits preset at the ablation's `SIZES`. Raises ConfigError."""
    return resolve(vary({**read_config("digits"), **SIZES, "sampling": {"default": SAMPLING}}, variant), {})


def samplings(config: ModelConfig) -> dict[str, SamplingConfig]:
    """Return the sampling settings by which a variant is measured; guidance, chains and temperature are the same.

    "short" has ten autoregressive steps in all, as the preset has. "own" gives a phase high with an MLP head, which
    samples the positions of a step independently, more steps: a single scale one per token, as MAR has, others 16.
    A DiT head denoises all positions together; there "own" is "short".
    """
    short = config.default_sampling
    if config.single_scale:
        short = replace(short, high_steps=short.low_steps + short.high_steps)
        return {OWN: replace(short, high_steps=config.high_positions), SHORT: short}
    return {OWN: short if config.high_head == "dit" else replace(short, high_steps=16), SHORT: short}


def finished_run(folder: Path, variant: str, seed: int, budget: Budget) -> dict[str, Any] | None:
    """Return a run's result, None where there is none yet. Raises ConfigError for one of another budget."""
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = dict(fields(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a result of a run ({error!r}); choose another --runs folder.") from error
    wanted = json.loads(json.dumps(_identity(variant, seed, budget)))
    for name, value in wanted.items():
        if result.get(name) != value:
            raise ConfigError(
                f"{path} was made with {name} = {result.get(name)} and this ablation has {value}; "
                f"choose another --runs folder."
            )
    try:
        require_numbers(result, "parameters")
        for steps in (OWN, SHORT):
            require_numbers(result["figures"][steps], *FIGURES)
    except (KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"{path} lacks figures of the run ({error!r}); remove it, or choose another --runs."
        ) from error
    return result


def run(folder: Path, variant: str, seed: int, budget: Budget, bench: Bench, on_step: OnStep) -> dict[str, Any]:
    """Train, sample and measure one run into `folder` and return its result; a stopped training continues."""
    config = variant_config(variant)
    weights = run_training(
        config, bench.latents, budget.settings(), seed, Outputs(folder), on_step, vae=bench.vae, resume=True
    )
    model, labels = load_checkpoint(weights), even_labels(budget.images)
    figures: dict[str, Mapping[str, float]] = {}
    done: dict[SamplingConfig, str] = {}
    for name, sampling in samplings(config).items():
        if sampling not in done:
            images = sample_images(model, bench.vae, labels, PhiloxDraws(seed), sampling)
            figures[name] = bench.judge.figures(images, labels).to_dict()
        else:
            figures[name] = figures[done[sampling]]
        done[sampling] = name
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {**_identity(variant, seed, budget), "parameters": parameters, "figures": figures}
    write_json(folder / RESULT_FILE, result)
    return result


def _identity(variant: str, seed: int, budget: Budget) -> dict[str, Any]:
    """Return what decides a run's figures."""
    config = variant_config(variant)
    return {
        "variant": variant,
        "seed": seed,
        "budget": asdict(budget),
        "config": config.to_dict(),
        "settings": {**asdict(budget.settings()), "snapshot_every": None},
        "samplings": {name: asdict(sampling) for name, sampling in samplings(config).items()},
        "vae_sha256": file_sha256(WEIGHTS / "digits-vae.safetensors"),
    }
