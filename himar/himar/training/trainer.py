"""Holds one training run: the model, its average, the optimiser, the generator, and their step."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ..data.order import ChosenImages, Labelled
from .family import Start, training_family
from .network import accumulating, fill, shard, shard_root, whole, wrap
from .optimise import Optimiser, Progress
from .processes import Processes
from .settings import DecaySchedule, Execution, Settings, check_seed
from .state import TrainingState, generator_state, plain


class Trainer:
    """One run: the model, its average, the optimiser and the generator; what `step` changes and a state holds.

    done: steps so far; run: plain values that a resumed run must share.
    """

    def __init__(
        self,
        model: Any,
        data: Labelled,
        settings: Settings,
        seed: int,
        execution: Execution,
        processes: Processes,
        start: Start | None = None,
    ) -> None:
        """Raises InputError when the data do not fit, ConfigError for a seed, batch, start or sharding not possible."""
        check_seed(seed)
        family = training_family(settings.family)
        self.task = family.task(model, data, settings)
        execution.require_processes(processes.count)
        self.model, self.settings, self.processes = model, settings, processes
        self.done = 0
        self.run: Mapping[str, Any] = plain(
            {
                "config": model.config.to_dict(),
                "settings": asdict(settings),  # type: ignore[call-overload]
                "seed": seed,
                "data": self.task.fingerprint(),
                **({} if start is None else {"start": start.identity}),
            }
        )
        self._count, self._seed = len(data.labels), seed
        self._device = torch.device(execution.device)
        self._parts = processes.parts(settings.batch, execution.accumulate)
        self.task.begin(seed, None if start is None else start.model)
        model.to(self._device).train()
        averaged = self.task.averaged is not None
        self._average = copy.deepcopy(model).eval().requires_grad_(False) if averaged else None
        model.recompute = execution.recompute
        network = self.task.network().to(self._device)
        self._network = wrap(network, family.blocks(model), family.shards(model), execution, processes)
        if execution.fsdp and self._average is not None:
            shard(family.shards(self._average))
            shard_root(self._average)
        self._optimiser = Optimiser(
            self.task.groups(), settings.schedule, settings.clip, self.task.scaler(self._device.type)
        )
        self._images = ChosenImages(self._count, settings, seed)
        self._generator = torch.Generator().manual_seed(seed)

    def step(self) -> Progress:
        """Train on one batch. Raises TrainingError."""
        step, settings, task = self.done, self.settings, self.task
        chosen = self._images.at(step, self._generator)
        batch = task.draw(chosen, self.epoch, self._parts, self._generator)

        values: Any = 0
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            for part in self._parts:
                # Dropout draws from the global generators. Seeded by place in the batch, it is the same after a
                # resume, and however the same parts are divided among processes.
                torch.manual_seed(_part_seed(self._seed, step, part))
                with accumulating(self._network, last=part is self._parts[-1]):
                    out = self._network(*batch.part(part, self._device))
                    self._optimiser.backward(task.loss(out) / len(self._parts))
                values = values + out.detach() / len(self._parts)
        values = self.processes.mean(values)
        self._optimiser.check(step, task.loss(values))
        rates = {"rate": self._optimiser.update(step)}
        if isinstance(settings.schedule, DecaySchedule):
            rates["weight decay"] = settings.schedule.weight_decay(step)
        if self._average is not None and task.averaged is not None:
            # A short run's average must forget its first weights sooner than the decay alone would.
            update_average(self._average, self.model, min(task.averaged, (step + 1) / (step + 10)))
        self.done += 1
        return Progress(self.done, settings.schedule.steps, settings.batch, {**task.figures(values), **rates})

    def final_model(self) -> Any:
        """Return what the training is for: the average where the family has one, whole and in eval mode, else the model
        that is trained. Every process must call it, and nobody change it.
        """
        model = self._whole(self.model if self._average is None else self._average)
        self.task.finish(model)
        return model

    def plain_model(self) -> Any:
        """Return the model that is trained, as `final_model` does."""
        model = self._whole(self.model)
        self.task.finish(model)
        return model

    def state(self) -> TrainingState:
        """Return all that the next step depends on; every process must call it."""
        tensors = {"generator": self._generator.get_state()}
        for prefix, module in self._modules():
            tensors |= {f"{prefix}.{name}": whole(value) for name, value in module.state_dict().items()}
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
        for prefix, module in self._modules():
            for name, value in module.state_dict().items():
                tensors[f"{prefix}.{name}"] = torch.empty(value.shape, dtype=value.dtype, device="meta")
        return TrainingState(0, self.run, tensors, self.scaler_state(), 0)

    def load(self, state: TrainingState) -> None:
        """Become what the state says; it must be of the same run, and `train_state.require_tensors` content with it."""
        for prefix, module in self._modules():
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
        return self.done * self.settings.batch // self._count

    def optimiser_state(self) -> dict[str, Any]:
        """Return AdamW's state dict with whole tensors, as the released layout keeps it; every process must call it."""
        values = self._optimiser.adam.state_dict()
        entries = values["state"].items()
        return {**values, "state": {key: {k: whole(v) for k, v in entry.items()} for key, entry in entries}}

    def scaler_state(self) -> dict[str, Any]:
        """Return the loss scale's state, empty unless training in float16."""
        return self._optimiser.scaler.state_dict() if self._optimiser.scaler else {}

    def _modules(self) -> list[tuple[str, nn.Module]]:
        """What a state holds the weights of, by prefix."""
        average = [] if self._average is None else [("average", self._average)]
        return [("model", self.model), *average]

    def _whole(self, model: Any) -> Any:
        if not any(hasattr(value, "full_tensor") for value in model.parameters()):
            return model
        with torch.device("meta"):
            result = type(model)(model.config)
        result.class_names = model.class_names
        result.load_state_dict({name: whole(value) for name, value in model.state_dict().items()}, assign=True)
        return result.eval().requires_grad_(False)


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
