"""HMAR's training: one network of two learns in each phase, from true codes; no weights are averaged (§7)."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from himar.data.codes.codes import Codes, check_fit, code_fingerprint
from himar.data.opening import Opening
from himar.loading.checkpoint_files import weights_sha256
from himar.training.family import Request, Start, Task
from himar.training.network import autocast
from himar.training.optimise import LossScale
from himar.training.trainer import Trainer
from himar_kernels import ConfigError

from .checkpoints import open_checkpoint, training_form
from .config import ModelConfig, read_config, resolve
from .digits import Recipe, train_digits
from .loss_draws import BatchDraws, draw_batch
from .losses import cell_weights, masked_scores, next_scale_scores
from .model import HMAR, initialise, start_masked
from .optimisation import decays, trained_parameters
from .tokenizer.network import Quantizer, Tokenizer
from .training_settings import TrainingSettings, changed_settings, released_settings
from .transformer import Block

_FIRST_SCALE, _MOST_SCALE = 2.0**11, 2.0**15
"""Of the loss under float16."""


class HmarTraining:
    """See `himar.training.family.TrainingFamily`."""

    options = frozenset({"phase", "weighting", "label_drop", "depth_drop", "lr_end", "weight_decay_end", "gate_init"})

    def config(self, source: str, options: Mapping[str, Any]) -> ModelConfig:
        """See TrainingFamily.config; the next-scale phase leaves the masked network out.

        Its settings keep their masked steps, for the masked phase that follows on the digits; `model` drops them.
        """
        masked = options["phase"] == "masked"
        if masked:
            for name, why in _NEXT_SCALE_ALONE.items():
                if options[name] is not None:
                    spelled = name.replace("_", "-")
                    raise click.UsageError(f"--{spelled} is of the next-scale phase: {why}; leave it out.")
        whole = resolve({**read_config(source), "masked": True}, {}, source)
        return replace(whole, masked=masked)

    def start(self, checkpoint: Path | None, config: ModelConfig, weights: str | None) -> Start | None:
        """See TrainingFamily.start; a masked phase needs one."""
        if checkpoint is None:
            require_start(config.masked, None)
            return None
        sizes = {name: value for name, value in config.to_dict().items() if name not in ("masked", "sampling")}
        model, entry = open_checkpoint(checkpoint, sizes, weights=weights)
        return Start(model, " ".join(filter(None, (weights_sha256(checkpoint), entry))))

    def open_data(
        self, source: Path, config: ModelConfig, vae: Path | None, opening: Opening
    ) -> tuple[Codes, Tokenizer]:
        """See TrainingFamily.open_data."""
        from himar.data.codes.source import open_codes

        return open_codes(source, config, vae, opening)

    def settings(
        self, config: ModelConfig, images: int | None, options: Mapping[str, Any]
    ) -> TrainingSettings | Recipe:
        """See TrainingFamily.settings; the digits' are those of both phases."""
        if images is None:
            return Recipe.changed(options)
        released = released_settings(config.depth, options["phase"] or "next-scale", images, options["batch"])
        return changed_settings(released, images, options)

    def train_digits(self, config: ModelConfig, settings: Recipe, request: Request) -> Path:
        """See TrainingFamily.train_digits."""
        return train_digits(config, settings, request)

    def model(self, config: ModelConfig, settings: TrainingSettings) -> HMAR:
        """See TrainingFamily.model."""
        return HMAR(config if config.masked else config.next_scale_alone())

    def task(self, model: HMAR, data: Codes, settings: TrainingSettings) -> Task:
        """See TrainingFamily.task."""
        check_fit(model.config, data)
        if settings.phase == "masked" and not model.config.masked:
            raise ConfigError("the model has no masked network to train; set masked in its configuration.")
        return HmarTask(model, data, settings)

    def blocks(self, model: nn.Module) -> Iterator[nn.Module]:
        """See TrainingFamily.blocks."""
        return (module for module in model.modules() if isinstance(module, Block))

    def shards(self, model: nn.Module) -> Iterator[nn.Module]:
        """See TrainingFamily.shards; the class's vectors are computed before the blocks run, by a part of each."""
        for block in self.blocks(model):
            assert isinstance(block, Block)
            yield block.ada_lin.linear
            yield block


def require_start(masked: bool, start: nn.Module | None) -> None:
    """Raise ConfigError for a masked phase without weights to start from."""
    if masked and start is None:
        raise ConfigError(
            "the masked phase trains over a finished next-scale network; name its weights with --start-from."
        )


_NEXT_SCALE_ALONE = {
    "weighting": "the masked loss weighs every masked cell alike",
    "gate_init": "the masked network begins as a copy of the next-scale one",
}
"""Options that the masked phase has no use for, and why."""


@dataclass(frozen=True)
class Drawn:
    """A step's true codes (B, L) and its random numbers."""

    codes: Tensor
    draws: BatchDraws

    def part(self, images: slice, device: torch.device) -> tuple[Tensor, BatchDraws]:
        """See Batch.part."""
        return self.codes[images].to(device), self.draws.part(images).to(device)


class HmarTask:
    """See `himar.training.family.Task`."""

    averaged: float | None = None

    def __init__(self, model: HMAR, codes: Codes, settings: TrainingSettings) -> None:
        self._model, self._codes, self._settings = model, codes, settings

    def fingerprint(self) -> dict[str, Any]:
        """See Task.fingerprint."""
        return code_fingerprint(self._codes)

    def begin(self, seed: int, start: nn.Module | None) -> None:
        """See Task.begin. Raises ConfigError for a masked phase without weights to start from."""
        model, phase = self._model, self._settings.phase
        require_start(phase == "masked", start)
        initialise(model, seed, self._settings.gate)
        if start is not None:
            ours = model.state_dict().keys()
            model.load_state_dict({name: value for name, value in start.state_dict().items() if name in ours}, False)
            if "mask_head.weight" not in start.state_dict():
                start_masked(model)
        trained = dict(trained_parameters(model, phase))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)

    def groups(self) -> list[dict[str, Any]]:
        """See Task.groups."""
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in trained_parameters(self._model, self._settings.phase):
            groups[decays(name, parameter)].append(parameter)
        return [{"params": group, "weight_decay": 0.0, "decays": kind} for kind, group in groups.items()]

    def network(self) -> nn.Module:
        """See Task.network."""
        return LossNetwork(self._model, self._codes.quantizer, self._settings)

    def scaler(self, device: str) -> torch.amp.GradScaler | None:
        """See Task.scaler."""
        return LossScale(device, _FIRST_SCALE, _MOST_SCALE) if self._settings.precision == "fp16" else None

    def draw(self, chosen: Tensor, epoch: int, needed: Collection[slice], generator: torch.Generator) -> Drawn:
        """See Task.draw."""
        codes, labels = self._codes.draw(chosen, needed, generator)
        return Drawn(codes, draw_batch(self._model.config, labels, self._settings.loss, generator))

    def loss(self, values: Tensor) -> Tensor:
        """See Task.loss."""
        return values[0]

    def figures(self, values: Tensor) -> dict[str, float]:
        """See Task.figures."""
        return {"loss": values[0].item(), "accuracy": values[1].item()}

    def finish(self, model: HMAR) -> None:
        """See Task.finish; everything is learned."""

    def examples(self, model: HMAR, count: int) -> Tensor:
        """See Task.examples."""
        return torch.arange(count) % model.config.classes

    def released(self, trainer: Trainer) -> dict[str, Any]:
        """Return epoch, iter, trainer and args; the trained network is trainer["transformer_wo_ddp"] (§2)."""
        settings = trainer.run["settings"]
        values = {
            **{name: value for name, value in trainer.run["config"].items() if name != "sampling"},
            **{name: value for name, value in settings.items() if not isinstance(value, dict)},
            **{**settings["schedule"], "seed": trainer.run["seed"]},
        }
        network = training_form(trainer.plain_model(), self._settings.phase)
        return {
            "epoch": trainer.epoch,
            "iter": trainer.done,
            "trainer": {"transformer_wo_ddp": {name: value.cpu() for name, value in network.items()}},
            "args": argparse.Namespace(**values),
        }


class LossNetwork(nn.Module):
    """Maps a part of the batch to its phase's loss, so that wrappers around it see the whole computation."""

    def __init__(self, model: HMAR, quantizer: Quantizer, settings: TrainingSettings) -> None:
        super().__init__()
        self.model = model
        self.quantizer = copy.deepcopy(quantizer).float().requires_grad_(False)
        self._settings = settings
        weights = cell_weights(model.config.scales, settings.weighting)
        self.register_buffer("weights", torch.from_numpy(weights).float(), persistent=False)
        self.weights: Tensor

    def forward(self, codes: Tensor, draws: BatchDraws) -> Tensor:
        """Return loss and accuracy of codes (B, L) as (2,), float32."""
        half = autocast(self._settings.precision, codes.device)
        inputs = (self.model, self.quantizer, codes, draws.class_row)
        if self._settings.phase == "masked":
            return masked_scores(*inputs, draws.masked, draws.kept, half)
        return next_scale_scores(*inputs, self.weights, draws.kept, half)


FAMILY = HmarTraining()
