"""Trains a model of scenes and its text tower from nothing: VAE, vocabulary, latents, then both networks as one.

It made the weights in himar/himar/weights/scenes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from himar.data.digits import half_size
from himar.data.latents import LatentSet
from himar.data.scenes.pictures import IMAGE_SIZE, SceneSet, make_scenes
from himar.folder_lock import folder_lock
from himar.text import TextConfig, TextTower, save_text_tower
from himar.training.family import Request
from himar.training.optimise import Schedule
from himar.training.run import prepare, train
from himar.training.settings import check_seed
from himar.training.state import STATE_FILE, require_free
from himar.training.trainer import Trainer
from himar.vae.autoencoder import AutoencoderKL
from himar.vae.layouts import load_vae
from himar.vae.training import SCENES_VAE, VaeTraining, latent_moments, save_vae, train_vae
from himar_kernels import CheckpointError, ConfigError
from himar_kernels.shared.files import require_writable_folder
from himar_kernels.text.tokenizer import Tokenizer
from himar_kernels.text.training import train_vocabulary
from himar_kernels.text.files import write_folder
from himar_kernels.text.vocabulary import Vocabulary

from .checkpoints import save_checkpoint
from .config import ModelConfig
from .diffusion_draws import StartPractice
from .joint import CaptionedLatents, JointModel
from .loss_draws import LossSettings
from .model import HiMAR
from .training_settings import TrainingSettings

SCENES = 10_000
"""Training scenes: what an epoch of them is."""
_MOST_TOKENS = 1024
"""Of the vocabulary: more than the captions' words need."""

VAE_FILE, MODEL_FILE, TEXT_FOLDER = "scenes-vae.safetensors", "scenes.safetensors", "text"

SCENES_MODEL = TrainingSettings(
    schedule=Schedule(steps=8000, peak=2e-3, warmup=200, decay="cosine"),
    batch=64,
    ema=0.998,
    dropout=0.0,
    snapshot_every=500,
    # As the digits' training: low tokens are few, pivots are nearly always used, the run is short.
    loss=LossSettings(pivot_share=0.9, low_mask_least=0.1, low_mask_deviation=0.6, repeats=2, start=StartPractice()),
)


@dataclass(frozen=True)
class Recipe:
    """The settings of both trainings, the tower's depth and the number of scenes."""

    vae: VaeTraining = SCENES_VAE
    model: TrainingSettings = SCENES_MODEL
    tower_depth: int = 3
    tower_heads: int = 4
    scenes: int = SCENES


def train_scenes(config: ModelConfig, recipe: Recipe, request: Request) -> Path:
    """Train VAE, tower and model of scenes and write all to `request.out`; returns the model's file.

    A VAE that the folder already has is used as it is. At every snapshot the averaged weights of model and tower and
    the training's state are written, each in one move; `text` is a folder in Hugging Face's form, with its vocabulary.
    Raises ConfigError when the model's sizes do not suit the scenes or the request asks for what this training does
    not do, and as `train_model` does; what can be refused is refused before the VAE is trained.
    """
    folder, seed = request.out, request.seed
    _check_sizes(config, recipe.vae)
    _check_request(request)
    check_seed(seed)
    request.execution.require_processes(request.processes.count)
    require_writable_folder(folder, CheckpointError)
    require_free(folder / STATE_FILE, request.resume)
    scenes = make_scenes(recipe.scenes, seed)
    if not (folder / VAE_FILE).exists():
        save_vae(folder / VAE_FILE, train_vae(recipe.vae, scenes.images, seed, request.on_stage("VAE")))
    # Read back, so that the latents are those of the half-precision weights that users have.
    vae = load_vae(folder / VAE_FILE)
    vocabulary = scenes_vocabulary(scenes, config.buffer)
    tower = tower_of(config, vocabulary, recipe)
    return _train_both(config, tower, vocabulary, captioned(vae, scenes, vocabulary), recipe.model, request)


def scenes_vocabulary(scenes: SceneSet, length: int) -> Vocabulary:
    """Return a vocabulary in which every word of the captions is one token."""
    texts = [text for wordings in scenes.captions for text in wordings]
    return train_vocabulary(texts, size=_MOST_TOKENS, length=length)


def captioned(vae: AutoencoderKL, scenes: SceneSet, vocabulary: Vocabulary) -> CaptionedLatents:
    """Encode scenes at both sizes, and their captions."""
    tokenizer = Tokenizer(vocabulary)
    texts = [text for wordings in scenes.captions for text in wordings]
    ids = torch.from_numpy(tokenizer.ids(texts)[0]).view(len(scenes.captions), -1, vocabulary.length)
    labels = torch.zeros(len(scenes.captions), dtype=torch.long)
    images = scenes.images
    latents = LatentSet(latent_moments(vae, images), latent_moments(vae, half_size(images)), labels)
    return CaptionedLatents(latents, ids, torch.from_numpy(tokenizer.ids([""])[0]))


def tower_of(config: ModelConfig, vocabulary: Vocabulary, recipe: Recipe) -> TextTower:
    """Return a tower without values whose rows suit a model."""
    width = config.context_width
    return TextTower(
        TextConfig(
            width=width,
            layers=recipe.tower_depth,
            heads=recipe.tower_heads,
            hidden=4 * width,
            vocabulary=vocabulary.end + 1,
            positions=config.buffer,
        )
    )


def _train_both(
    config: ModelConfig,
    tower: TextTower,
    vocabulary: Vocabulary,
    data: CaptionedLatents,
    settings: TrainingSettings,
    request: Request,
) -> Path:
    folder = request.out

    def snapshot(trainer: Trainer) -> None:
        final = trainer.final_model()
        if request.processes.first:
            save_both(folder, final, vocabulary, data.empty)
            if request.keep:
                save_both(folder / f"{trainer.done:06d}", final, vocabulary, data.empty)

    trainer = prepare(
        JointModel(HiMAR(config, settings.dropout), tower),
        data,
        settings,
        request.seed,
        execution=request.execution,
        processes=request.processes,
        state=folder / STATE_FILE,
        resume=request.resume,
        start=request.start,
    )
    with folder_lock(folder, CheckpointError):
        train(trainer, request.on_stage("model"), snapshot, folder / STATE_FILE)
    return folder / MODEL_FILE


@torch.no_grad()
def save_both(folder: Path, joint: JointModel, vocabulary: Vocabulary, empty: Tensor) -> None:
    """Write model and tower in half precision, and the tower's folder with its vocabulary.

    The empty text's context is that of the half-precision tower that users have; empty: its ids (1, K).
    """
    model, tower = copy.deepcopy(joint.model), copy.deepcopy(joint.tower).half()
    save_text_tower(tower, folder / TEXT_FOLDER)
    model.empty_context.copy_(tower.float()(empty.to(model.empty_context.device)))
    write_folder(vocabulary, folder / TEXT_FOLDER)
    save_checkpoint(model, folder / MODEL_FILE, torch.float16)


def _check_sizes(config: ModelConfig, vae: VaeTraining) -> None:
    stride = vae.config.stride
    wanted = {
        "context": "text",
        "img_size": IMAGE_SIZE,
        "vae_stride": stride,
        "cond_scale": 0 if config.single_scale else IMAGE_SIZE // 2 // stride,
        "channels": vae.config.z_channels,
    }
    for name, size in wanted.items():
        if getattr(config, name) != size:
            raise ConfigError(f"{name} is {getattr(config, name)}, but scenes need {size}; use --config himar-scenes.")


def _check_request(request: Request) -> None:
    for asked, option in (
        (request.board, "--tensorboard"),
        (request.released, "--released-layout"),
        (request.execution.fsdp, "--fsdp"),
        (request.start is not None, "--start-from"),
    ):
        if asked:
            raise ConfigError(f"{option} was given, but the training of scenes does not do that; leave it out.")
