"""Holds one training run: the model, its average, the optimiser, the generator, and their step (docs/model.md §8)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.latents import ChosenImages, Latents, check_fit, fingerprint
from ..families.hi_mar.loss_draws import draw_batch
from ..families.hi_mar.model import HiMAR, initialise
from .network import accumulating, fill, losses_from, shard, shard_root, whole, wrap
from .optimise import Optimiser, Progress
from .processes import Processes
from .settings import Execution, TrainingSettings, check_seed
from .state import TrainingState, generator_state, plain


@dataclass(frozen=True)
class Start:
    """Weights that a training begins with instead of new ones, and what names them when it is resumed."""

    model: HiMAR
    identity: str


class Trainer:
    """One run: the model, its average, the optimiser and the generator; what `step` changes and a state holds.

    done: steps so far; run: plain values that a resumed run must share.
    """

    def __init__(
        self,
        model: HiMAR,
        latents: Latents,
        settings: TrainingSettings,
        seed: int,
        execution: Execution,
        processes: Processes,
        start: Start | None = None,
    ) -> None:
        """Raises InputError when the latents do not fit, ConfigError for a seed, batch or sharding that cannot be."""
        check_seed(seed)
        check_fit(model.config, latents)
        execution.require_processes(processes.count)
        self.model, self.settings, self.processes = model, settings, processes
        self.done = 0
        self.run: Mapping[str, Any] = plain(
            {
                "config": model.config.to_dict(),
                "settings": asdict(settings),
                "seed": seed,
                "data": fingerprint(latents),
                **({} if start is None else {"start": start.identity}),
            }
        )
        self._latents, self._seed = latents, seed
        self._device = torch.device(execution.device)
        self._parts = processes.parts(settings.batch, execution.accumulate)
        initialise(model, seed)
        if start is not None:
            model.load_state_dict(start.model.state_dict())
        model.to(self._device).train()
        self._average: HiMAR = copy.deepcopy(model).eval().requires_grad_(False)
        self._network = wrap(model, settings.precision, execution, processes)
        if execution.fsdp:
            shard(self._average)
            shard_root(self._average)
        scaler = torch.amp.GradScaler(self._device.type) if settings.precision == "fp16" else None
        self._optimiser = Optimiser(
            parameter_groups(model, settings.weight_decay), settings.schedule, settings.clip, scaler
        )
        self._images = ChosenImages(len(latents.labels), settings, seed)
        self._generator = torch.Generator().manual_seed(seed)

    def step(self) -> Progress:
        """Train on one batch. Raises TrainingError."""
        step, settings, config = self.done, self.settings, self.model.config
        chosen = self._images.at(step, self._generator)
        tokens, low_tokens, labels = self._latents.draw(chosen, config.vae_scale, self._generator)
        loss_settings = replace(settings.loss, pivot_share=settings.pivot_share(self.epoch))
        draws = draw_batch(config, labels, loss_settings, self._generator)

        values = torch.zeros(4, device=self._device)
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            for part in self._parts:
                # Dropout draws from the global generators. Seeded by place in the batch, it is the same after a
                # resume, and however the same parts are divided among processes.
                torch.manual_seed(_part_seed(self._seed, step, part))
                inputs = (piece[part].to(self._device) for piece in (tokens, low_tokens))
                with accumulating(self._network, last=part is self._parts[-1]):
                    out = self._network(*inputs, draws.part(part).to(self._device))
                    self._optimiser.backward(losses_from(out, self.model).total / len(self._parts))
                values += out.detach() / len(self._parts)
        losses = losses_from(self.processes.mean(values), self.model)
        self._optimiser.check(step, losses.total)
        rate = self._optimiser.update(step)
        # A short run's average must forget its first weights sooner than the decay alone would.
        update_average(self._average, self.model, min(settings.ema, (step + 1) / (step + 10)))
        self.done += 1
        figures = {"low mse": losses.low_mse, "low vb": losses.low_vb, "high mse": losses.high_mse}
        if config.high_head == "mlp":
            figures["high vb"] = losses.high_vb
        if config.single_scale:
            figures = {name: value for name, value in figures.items() if name.startswith("high")}
        numbers = {name: value.item() for name, value in figures.items()}
        return Progress(self.done, settings.schedule.steps, settings.batch, {**numbers, "rate": rate})

    def averaged_model(self) -> HiMAR:
        """Return the average, whole and in eval mode; every process must call it. It must not be changed."""
        return self._whole(self._average)

    def plain_model(self) -> HiMAR:
        """Return the model that is trained, as `averaged_model` does."""
        return self._whole(self.model)

    def state(self) -> TrainingState:
        """Return all that the next step depends on; every process must call it."""
        tensors = {"generator": self._generator.get_state()}
        tensors |= {f"model.{name}": whole(value) for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": whole(value) for name, value in self._average.state_dict().items()}
        adam, updates = self._optimiser.adam, 0
        for name, parameter in self.model.named_parameters():
            if parameter in adam.state:
                moments = adam.state[parameter]
                updates = int(moments["step"])
                tensors |= {f"{key}.{name}": whole(moments[key]) for key in ("exp_avg", "exp_avg_sq")}
        return TrainingState(self.done, self.run, tensors, self.scaler_state(), updates)

    def layout(self) -> TrainingState:
        """Return the state before the first step without its values: tensors of the names, shapes and types alone."""
        tensors = {"generator": self._generator.get_state()}
        for prefix, module in (("model", self.model), ("average", self._average)):
            for name, value in module.state_dict().items():
                tensors[f"{prefix}.{name}"] = torch.empty(value.shape, dtype=value.dtype, device="meta")
        return TrainingState(0, self.run, tensors, self.scaler_state(), 0)

    def load(self, state: TrainingState) -> None:
        """Become what the state says; it must be of the same run, and `train_state.require_tensors` content with it."""
        for prefix, module in (("model", self.model), ("average", self._average)):
            saved = state.group(prefix)
            for name, value in module.state_dict().items():
                fill(value, saved[name])
        moments = {key: state.group(key) for key in ("exp_avg", "exp_avg_sq")}
        for name, parameter in self.model.named_parameters():
            if name not in moments["exp_avg"]:
                continue
            entry: dict[str, Tensor] = {"step": torch.tensor(float(state.updates))}
            for key, saved in moments.items():
                entry[key] = torch.zeros_like(parameter)
                fill(entry[key], saved[name])
            self._optimiser.adam.state[parameter] = entry
        if self._optimiser.scaler is not None:
            self._optimiser.scaler.load_state_dict(dict(state.scaler))
        self._generator.set_state(generator_state(state.tensors["generator"]))
        self.done = state.step

    @property
    def epoch(self) -> int:
        """How often the steps so far have gone through the data, counted from 0."""
        return self.done * self.settings.batch // len(self._latents.labels)

    def optimiser_state(self) -> dict[str, Any]:
        """Return AdamW's state dict with whole tensors, as the released layout keeps it; every process must call it."""
        values = self._optimiser.adam.state_dict()
        entries = values["state"].items()
        return {**values, "state": {key: {k: whole(v) for k, v in entry.items()} for key, entry in entries}}

    def scaler_state(self) -> dict[str, Any]:
        """Return the loss scale's state, empty unless training in float16."""
        return self._optimiser.scaler.state_dict() if self._optimiser.scaler else {}

    def _whole(self, model: HiMAR) -> HiMAR:
        if not any(hasattr(value, "full_tensor") for value in model.parameters()):
            return model
        with torch.device("meta"):
            result = HiMAR(model.config)
        result.class_names = model.class_names
        result.load_state_dict({name: whole(value) for name, value in model.state_dict().items()}, assign=True)
        return result.eval().requires_grad_(False)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: weight decay for matrices of the transformer, none for biases, 1-D and both heads."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.endswith(".bias") or "diffloss" in name
        (others if plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged parameters towards the model's by 1 - decay."""
    ours, theirs = ([_local(p) for p in module.parameters()] for module in (averaged, model))
    torch._foreach_lerp_(ours, theirs, 1 - decay)


def _local(parameter: Tensor) -> Tensor:
    """This process's shard of a parameter, or all of it."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _part_seed(seed: int, step: int, part: slice) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {part.start}".encode()).digest()[:7])
