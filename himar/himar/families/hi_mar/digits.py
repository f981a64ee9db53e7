"""Trains a model of the digits from nothing: VAE, latents, model. It made the weights in himar/himar/weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from himar.data.digits import IMAGE_SIZE, Digits, half_size, load_digits_split
from himar.data.latents import LatentSet
from himar.training.board import require_board
from himar.training.family import Start
from himar.training.optimise import OnStep, Schedule
from himar.training.processes import Processes
from himar.training.run import BOARD_FOLDER, Outputs, run_training
from himar.training.settings import Execution, check_seed
from himar.training.state import STATE_FILE, require_free
from himar.vae.autoencoder import AutoencoderKL
from himar.vae.layouts import load_vae
from himar.vae.training import DIGITS_VAE, VaeTraining, latent_moments, save_vae, train_vae
from himar_kernels import CheckpointError, ConfigError
from himar_kernels.shared.files import require_writable_folder

from .config import ModelConfig
from .diffusion_draws import StartPractice
from .loss_draws import LossSettings
from .training_settings import TrainingSettings

DIGIT_IMAGES = 1437
"""Training digits: what an epoch of them is."""

VAE_FILE, MODEL_FILE = "digits-vae.safetensors", "digits.safetensors"

DIGITS_MODEL = TrainingSettings(
    schedule=Schedule(steps=3600, peak=2e-3, warmup=100, decay="cosine"),
    batch=64,
    ema=0.998,
    dropout=0.0,
    snapshot_every=200,
    # Low tokens are few here: every share of them is masked at times, and pivots are nearly always used.
    loss=LossSettings(pivot_share=0.9, low_mask_least=0.1, low_mask_deviation=0.6, repeats=2, start=StartPractice()),
)


@dataclass(frozen=True)
class Recipe:
    """The settings of both trainings and the seed of everything random."""

    vae: VaeTraining = DIGITS_VAE
    model: TrainingSettings = DIGITS_MODEL
    seed: int = 0

    def with_model(self, settings: TrainingSettings) -> Recipe:
        """Return a copy with other settings of the model's training."""
        return replace(self, model=settings)


def train_digits(
    folder: Path,
    config: ModelConfig,
    recipe: Recipe,
    on_stage: Callable[[str], OnStep | None],
    *,
    execution: Execution | None = None,
    processes: Processes | None = None,
    resume: bool = False,
    released: bool = False,
    board: bool = False,
    grid: int = 0,
    keep: bool = False,
    start: Start | None = None,
) -> Path:
    """Train the digits' VAE and model and write both to `folder`; returns the model's file.

    A VAE that `folder` already has is used as it is. The model's averaged weights and the training's state are
    written at every snapshot, each in one move; `train_run.Outputs` says what `released`, `board`, `grid` and `keep`
    add. `on_stage` is told "VAE" or "model" before each training and may return a step callback.
    Raises ConfigError when the model's sizes do not suit the digits, and as `train_model` does; what can be refused is
    refused before the VAE is trained.
    """
    _check_sizes(config, recipe.vae)
    processes, execution = processes or Processes(), execution or Execution()
    check_seed(recipe.seed)
    execution.require_processes(processes.count)
    processes.parts(recipe.model.batch, execution.accumulate)
    if board:
        require_board(folder / BOARD_FOLDER)
    if processes.first:
        require_writable_folder(folder, CheckpointError)
    require_free(folder / STATE_FILE, resume)
    train, _ = load_digits_split()
    if processes.first and not (folder / VAE_FILE).exists():
        trained = train_vae(recipe.vae, train.images, recipe.seed, on_stage("VAE"))
        save_vae(folder / VAE_FILE, trained)
    processes.wait()
    # Read back, so that the latents are those of the half-precision weights that users have.
    vae = load_vae(folder / VAE_FILE)
    outputs = Outputs(folder, MODEL_FILE, torch.float16, released, grid, board, keep)
    return run_training(
        config,
        digit_latents(vae, train),
        recipe.model,
        recipe.seed,
        outputs,
        on_stage("model"),
        vae=vae,
        execution=execution,
        processes=processes,
        resume=resume,
        start=start,
    )


def digit_latents(vae: AutoencoderKL, digits: Digits) -> LatentSet:
    """Encode the digits at both sizes."""
    return LatentSet(latent_moments(vae, digits.images), latent_moments(vae, half_size(digits.images)), digits.labels)


def _check_sizes(config: ModelConfig, vae: VaeTraining) -> None:
    if config.from_text:
        raise ConfigError("the digits have no captions, and this model makes images from text; use --config digits.")
    stride = vae.config.stride
    wanted = {
        "img_size": IMAGE_SIZE,
        "vae_stride": stride,
        "cond_scale": 0 if config.single_scale else IMAGE_SIZE // 2 // stride,
        "channels": vae.config.z_channels,
    }
    for name, size in wanted.items():
        if getattr(config, name) != size:
            raise ConfigError(f"{name} is {getattr(config, name)}, but the digits need {size}; use --config digits.")
    if config.classes < 10:
        raise ConfigError(f"classes is {config.classes}, but there are 10 digits; set it to 10.")
