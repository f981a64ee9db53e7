"""Hi-MAR's training: both phases' losses on latents, weight decay on the transformer's matrices, averaged weights."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import click
import torch
from torch import Tensor, nn

from himar.data.captioned.latents import CaptionedLatents
from himar.data.latents import Latents, check_fit, fingerprint
from himar.data.opening import Opening
from himar.data.source import open_data
from himar.loading.checkpoint_files import weights_sha256
from himar.text import encode
from himar.text.layers import Block as TowerBlock
from himar.training.family import Request, Start, Task
from himar.training.network import autocast
from himar.training.optimise import LossScale
from himar.training.settings import Precision, asked_steps
from himar.training.trainer import Trainer
from himar.vae.autoencoder import AutoencoderKL

from .checkpoints import open_checkpoint
from .config import ModelConfig, read_config, resolve
from .digits import DIGIT_IMAGES, DIGITS_MODEL, Recipe, train_digits
from .dit_head import DiTBlock
from .joint import TOWER, TOWER_RATE, JointConfig, JointHiMAR, initialise_tower, require_texts, with_contexts
from .loss_draws import BatchDraws, draw_batch
from .losses import Losses, drawn_losses
from .mlp_head import ResidualBlock
from .model import HiMAR, initialise
from .presets import vary
from .scenes import SCENES, SCENES_MODEL, SceneRecipe, train_scenes
from .training_settings import TrainingSettings, changed_settings, paper_settings, text_settings
from .transformer import Block

_CHANGES = (
    "batch", "rate", "ema", "weight_decay", "clip", "dropout", "pivot_share", "pivot_warmup", "precision",
    "snapshot_every",
)  # fmt: skip
"""Options whose values are settings."""


class HiMarTraining:
    """See `himar.training.family.TrainingFamily`."""

    options = frozenset({"variant", "ema", "dropout", "pivot_share", "pivot_warmup"})

    def config(self, source: str, options: Mapping[str, Any]) -> ModelConfig:
        """See TrainingFamily.config."""
        values = read_config(source)
        variant = options["variant"]
        config = resolve(values if variant is None else vary(values, variant), {}, source)
        for option in ("pivot_share", "pivot_warmup"):
            if config.single_scale and options[option] is not None:
                spelled = option.replace("_", "-")
                raise click.UsageError(f"--{spelled} was given, but this model has a single scale and so no pivots.")
        return config

    def start(self, checkpoint: Path | None, config: ModelConfig, weights: str | None) -> Start | None:
        """See TrainingFamily.start."""
        if checkpoint is None:
            return None
        model, entry = open_checkpoint(checkpoint, config, weights=weights)
        return Start(model, " ".join(filter(None, (weights_sha256(checkpoint), entry))))

    def open_data(
        self, source: Path, config: ModelConfig, vae: Path | None, opening: Opening
    ) -> tuple[Latents, AutoencoderKL | None]:
        """See TrainingFamily.open_data."""
        return open_data(
            source,
            config,
            vae,
            opening.device,
            processes=opening.processes,
            state=opening.state,
            on_notice=opening.on_notice,
            on_list=opening.on_list,
            checking=opening.checking,
        )

    def settings(self, config: ModelConfig, images: int | None, options: Mapping[str, Any]) -> TrainingSettings:
        """See TrainingFamily.settings."""
        if images is None:
            recipe, images = (SCENES_MODEL, SCENES) if config.from_text else (DIGITS_MODEL, DIGIT_IMAGES)
        else:
            recipe = text_settings() if config.from_text else paper_settings(images, options["batch"] or 2048)
        changes = {name: options[name] for name in _CHANGES}
        steps = asked_steps(options, images, recipe.batch)
        return changed_settings(recipe, **steps, **changes)

    def train_made(self, data: str, config: ModelConfig, settings: TrainingSettings, request: Request) -> Path:
        """See TrainingFamily.train_made."""
        if data == "scenes":
            return train_scenes(config, SceneRecipe(model=settings), request)
        return train_digits(
            request.out,
            config,
            Recipe(seed=request.seed).with_model(settings),
            request.on_stage,
            execution=request.execution,
            processes=request.processes,
            resume=request.resume,
            released=request.released,
            board=request.board,
            grid=request.grid,
            keep=request.keep,
            start=request.start,
        )

    def model(self, config: ModelConfig, settings: TrainingSettings) -> HiMAR:
        """See TrainingFamily.model."""
        if isinstance(config, JointConfig):
            return JointHiMAR(config, settings.dropout)
        return HiMAR(config, settings.dropout)

    def task(self, model: HiMAR, data: Latents, settings: TrainingSettings) -> Task:
        """See TrainingFamily.task."""
        check_fit(model.config, data)
        if model.config.from_text:
            require_texts(model, cast(CaptionedLatents, data).empty_text)
        return HiMarTask(model, data, settings)

    def blocks(self, model: nn.Module) -> Iterator[nn.Module]:
        """See TrainingFamily.blocks."""
        return repeated_blocks(model)

    def shards(self, model: nn.Module) -> Iterator[nn.Module]:
        """See TrainingFamily.shards."""
        return repeated_blocks(model)


@dataclass(frozen=True)
class Drawn:
    """A step's tokens (B, N, C) and (B, S, C), and the losses' random numbers with what the images show."""

    tokens: Tensor
    low_tokens: Tensor
    draws: BatchDraws

    def part(self, images: slice, device: torch.device) -> tuple[Tensor, Tensor, BatchDraws]:
        """See Batch.part."""
        tokens, low_tokens = (piece[images].to(device) for piece in (self.tokens, self.low_tokens))
        return tokens, low_tokens, self.draws.part(images).to(device)


class HiMarTask:
    """See `himar.training.family.Task`."""

    def __init__(self, model: HiMAR, latents: Latents, settings: TrainingSettings) -> None:
        self.averaged: float | None = settings.ema
        self._model, self._latents, self._settings = model, latents, settings

    def fingerprint(self) -> dict[str, Any]:
        """See Task.fingerprint."""
        return fingerprint(self._latents)

    def begin(self, seed: int, start: nn.Module | None) -> None:
        """See Task.begin."""
        initialise(self._model, seed)
        if isinstance(self._model, JointHiMAR):
            initialise_tower(self._model, seed)
        if start is not None:
            self._model.load_state_dict(start.state_dict())
        if self._model.config.from_text and not isinstance(self._model, JointHiMAR):
            with torch.no_grad():
                self._model.empty_context.copy_(cast(CaptionedLatents, self._latents).empty_text)

    def groups(self) -> list[dict[str, Any]]:
        """See Task.groups."""
        return parameter_groups(self._model, self._settings.weight_decay)

    def network(self) -> nn.Module:
        """See Task.network."""
        return LossNetwork(self._model, self._settings.precision)

    def scaler(self, device: str) -> torch.amp.GradScaler | None:
        """See Task.scaler."""
        return LossScale(device) if self._settings.precision == "fp16" else None

    def draw(self, chosen: Tensor, epoch: int, needed: Collection[slice], generator: torch.Generator) -> Drawn:
        """See Task.draw."""
        config, settings = self._model.config, self._settings
        tokens, low_tokens, shown = self._latents.draw(chosen, config.vae_scale, generator)
        losses = replace(settings.loss, pivot_share=settings.pivot_share(epoch))
        return Drawn(tokens, low_tokens, draw_batch(config, shown, losses, generator))

    def finish(self, model: HiMAR) -> None:
        """See Task.finish: the empty context of a text tower that learns."""
        if isinstance(model, JointHiMAR):
            model.settle()

    def examples(self, model: HiMAR, count: int) -> Tensor:
        """See Task.examples."""
        if not model.config.from_text:
            return torch.arange(count) % model.config.classes
        texts = cast(CaptionedLatents, self._latents).examples(count)
        return encode(model.tower, texts) if isinstance(model, JointHiMAR) else texts.float()

    def loss(self, values: Tensor) -> Tensor:
        """See Task.loss."""
        return losses_from(values, self._model).total

    def figures(self, values: Tensor) -> dict[str, float]:
        """See Task.figures."""
        config, losses = self._model.config, losses_from(values, self._model)
        figures = {"low mse": losses.low_mse, "low vb": losses.low_vb, "high mse": losses.high_mse}
        if config.high_head == "mlp":
            figures["high vb"] = losses.high_vb
        if config.single_scale:
            figures = {name: value for name, value in figures.items() if name.startswith("high")}
        return {name: value.item() for name, value in figures.items()}

    def released(self, trainer: Trainer) -> dict[str, Any]:
        """Return model, model_ema, optimizer, epoch, scaler and args (docs/model.md §2)."""
        plain, averaged = trainer.plain_model(), trainer.final_model()
        config, settings = trainer.run["config"], trainer.run["settings"]
        values = {
            **{name: value for name, value in config.items() if name != "sampling"},
            **{name: value for name, value in settings.items() if not isinstance(value, dict)},
            **{"lr": settings["schedule"]["peak"], "seed": trainer.run["seed"], "steps_done": trainer.done},
        }
        return {
            "model": _released_state(plain),
            "model_ema": _released_state(averaged),
            "optimizer": trainer.optimiser_state(),
            "epoch": trainer.epoch,
            "scaler": trainer.scaler_state(),
            "args": argparse.Namespace(**values),
        }


def _released_state(model: HiMAR) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: value.cpu() for name, value in state.items() if not name.startswith(TOWER)}


class LossNetwork(nn.Module):
    """Maps a part of the batch to the four losses, so that wrappers around it see the whole computation.

    With a text tower that learns, the draws show token ids, and every step's empty context is the tower's of that step.
    """

    def __init__(self, model: HiMAR, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._precision: Precision = precision

    def forward(self, tokens: Tensor, low_tokens: Tensor, draws: BatchDraws) -> Tensor:
        """Return low_mse, low_vb, high_mse, high_vb as (4,), float32."""
        with autocast(self._precision, tokens.device):
            draws, empty = with_contexts(self.model, draws)
        half = autocast(self._precision, tokens.device)
        losses = drawn_losses(self.model, tokens, low_tokens, draws, half, empty)
        return torch.stack([losses.low_mse, losses.low_vb, losses.high_mse, losses.high_vb])


def losses_from(values: Tensor, model: HiMAR) -> Losses:
    """Name the four values that a `LossNetwork` returns."""
    low_mse, low_vb, high_mse, high_vb = values.unbind()
    return Losses(low_mse, low_vb, high_mse, high_vb, model.config.single_scale)


def repeated_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """All blocks of transformer and heads, and of a text tower that is trained with them."""
    kinds = (Block, DiTBlock, ResidualBlock, TowerBlock)
    return (module for module in model.modules() if isinstance(module, kinds))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: weight decay for matrices of the transformer, none for biases, 1-D and both heads.

    A text tower that is trained with the model is a group of its own, without decay, at TOWER_RATE.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    tower: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.endswith(".bias") or "diffloss" in name
        (tower if name.startswith(TOWER) else others if plain else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [*groups, {"params": tower, "weight_decay": 0.0, "rate_factor": TOWER_RATE}] if tower else groups


FAMILY = HiMarTraining()
