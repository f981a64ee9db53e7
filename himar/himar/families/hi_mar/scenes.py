"""Trains a model of scenes and its text tower from nothing: VAE, tower and transformer by themselves, then all as one.

It made the weights in himar/himar/weights/scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from himar.data.captioned.latents import CaptionedSet
from himar.data.digits import half_size
from himar.data.scenes.pictures import IMAGE_SIZE, SceneSet, make_scenes
from himar.text import TextConfig
from himar.text.reading import ReadingTraining, train_to_read
from himar.training.board import require_board
from himar.training.family import Request, Start
from himar.training.optimise import Schedule
from himar.training.run import BOARD_FOLDER, Outputs, run_training
from himar.training.settings import check_seed
from himar.training.state import STATE_FILE, require_free
from himar.vae.autoencoder import AutoencoderKL
from himar.vae.layouts import load_vae
from himar.vae.training import SCENES_VAE, VaeTraining, latent_moments, save_vae, train_vae
from himar_kernels import CheckpointError, ConfigError
from himar_kernels.shared.files import require_writable_folder
from himar_kernels.text import Tokenizer
from himar_kernels.text.files import write_folder
from himar_kernels.text.training import train_vocabulary
from himar_kernels.text.vocabulary import Vocabulary

from .config import ModelConfig
from .joint import JointConfig, JointHiMAR, join
from .loss_draws import FewPositions
from .means import MeansTraining, train_means
from .model import initialise
from .training_settings import TrainingSettings

SCENES = 10_000
"""Training scenes: what an epoch of them is."""
_MOST_TOKENS = 1024
"""Of the vocabulary: more than the captions' words need."""

VAE_FILE, MODEL_FILE, TEXT_FOLDER = "scenes-vae.safetensors", "scenes.safetensors", "scenes-text"

SCENES_READING = ReadingTraining(Schedule(steps=600, peak=1e-3, warmup=100, decay="cosine"))

SCENES_MEANS = MeansTraining(Schedule(steps=800, peak=2e-3, warmup=100, decay="cosine"))

SCENES_MODEL = TrainingSettings(
    schedule=Schedule(steps=7000, peak=2e-3, warmup=200, decay="cosine"),
    batch=64,
    ema=0.998,
    dropout=0.0,
    snapshot_every=500,
    # As the digits': low tokens are few, pivots are nearly always used. No practice of the chain's start: the preset
    # samples with dpm++, whose chain begins where an error is not magnified.
    loss=FewPositions(pivot_share=0.9, low_mask_least=0.1, low_mask_deviation=0.6, repeats=2),
)


@dataclass(frozen=True)
class SceneRecipe:
    """The settings of the four trainings, the tower's sizes and the number of scenes.

    tower_layers, tower_heads: of the tower, whose width and rows are the model's context.
    """

    vae: VaeTraining = SCENES_VAE
    reading: ReadingTraining = SCENES_READING
    means: MeansTraining = SCENES_MEANS
    model: TrainingSettings = SCENES_MODEL
    tower_layers: int = 3
    tower_heads: int = 4
    scenes: int = SCENES


def train_scenes(config: ModelConfig, recipe: SceneRecipe, request: Request) -> Path:
    """Train VAE, tower and model of scenes and write all to `request.out`; returns the model's file.

    A VAE that the folder already has is used as it is. At every snapshot the averaged weights of model and tower and
    the training's state are written, each in one move; TEXT_FOLDER is the tower with its vocabulary, as Hugging Face
    keeps both. Raises ConfigError when the model's sizes do not suit the scenes, and as `run_training` does; what can
    be refused is refused before the VAE is trained.
    """
    folder, seed, processes = request.out, request.seed, request.processes
    _check_sizes(config, recipe.vae)
    check_seed(seed)
    request.execution.require_processes(processes.count)
    processes.parts(recipe.model.batch, request.execution.accumulate)
    if request.board:
        require_board(folder / BOARD_FOLDER)
    if processes.first:
        require_writable_folder(folder, CheckpointError)
    require_free(folder / STATE_FILE, request.resume)
    scenes = make_scenes(recipe.scenes, seed)
    vocabulary = scenes_vocabulary(scenes, config.buffer)
    if processes.first:
        if not (folder / VAE_FILE).exists():
            save_vae(folder / VAE_FILE, train_vae(recipe.vae, scenes.images, seed, request.on_stage("VAE")))
        write_folder(vocabulary, folder / TEXT_FOLDER)
    processes.wait()
    # Read back, so that the latents are those of the half-precision weights that users have.
    vae = load_vae(folder / VAE_FILE)
    data = captioned(vae, scenes, vocabulary)
    tower = TextConfig(
        width=config.context_width,
        layers=recipe.tower_layers,
        heads=recipe.tower_heads,
        hidden=4 * config.context_width,
        vocabulary=vocabulary.end + 1,
        positions=config.buffer,
    )
    outputs = Outputs(folder, MODEL_FILE, torch.float16, request.released, request.grid, request.board, request.keep)
    joint = join(config, tower, data.empty_text)
    start = _start(joint, data, scenes, recipe, request)
    return run_training(
        joint,
        data,
        recipe.model,
        seed,
        outputs,
        request.on_stage("model"),
        vae=vae,
        execution=request.execution,
        processes=processes,
        resume=request.resume,
        start=start,
    )


def _start(joint: JointConfig, data: CaptionedSet, scenes: SceneSet, recipe: SceneRecipe, request: Request) -> Start:
    """Return a model whose tower reads and whose transformer tells means; a resumed run's state has both."""
    model, given = JointHiMAR(joint), request.start
    initialise(model, request.seed)
    if given is not None:
        model.load_state_dict(given.model.state_dict(), strict=False)
    if not (request.resume and (request.out / STATE_FILE).exists()):
        facts = torch.tensor([scene.facts for scene in scenes.scenes]).repeat_interleave(data.first.diff(), dim=0)
        on_step = request.on_stage("text tower")
        model.tower = train_to_read(joint.tower, data.texts, facts, recipe.reading, request.seed, on_step)
        on_step = request.on_stage("transformer")
        train_means(model, data, recipe.model.loss, recipe.means, request.seed, on_step)
    identity = f"{recipe.reading}, {recipe.means}, seed {request.seed}"
    return Start(model, identity if given is None else f"{identity}, {given.identity}")


def scenes_vocabulary(scenes: SceneSet, length: int) -> Vocabulary:
    """Return a vocabulary, for rows of `length` tokens, in which every word of the captions is one token."""
    return train_vocabulary(_texts(scenes), _MOST_TOKENS, length)


def captioned(vae: AutoencoderKL, scenes: SceneSet, vocabulary: Vocabulary) -> CaptionedSet:
    """Encode scenes at both sizes, and their captions as token ids."""
    tokenizer = Tokenizer(vocabulary)
    counts = torch.tensor([0, *(len(wordings) for wordings in scenes.captions)])
    return CaptionedSet(
        latent_moments(vae, scenes.images),
        latent_moments(vae, half_size(scenes.images)),
        torch.from_numpy(tokenizer.ids(_texts(scenes))[0]),
        counts.cumsum(0),
        torch.from_numpy(tokenizer.ids([""])[0][0]),
    )


def _texts(scenes: SceneSet) -> list[str]:
    return [text for wordings in scenes.captions for text in wordings]


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
