"""A training's state on disk: all that the next step depends on, written so that a kill never loses it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from himar_kernels import CheckpointError, ConfigError

from .files import read_state, write_safetensors

STATE_FILE = "training-state.safetensors"
_KEY, _FORMAT = "himar_training", 1
_MEASURED, _TOLERANCE = "data.token_means", 1e-3
"""Means of the same images' tokens differ between machines and thread counts by rounding alone."""

# What may change between a stop and a resume: it decides when files are written, not what is learned.
_FREE = ("settings.snapshot_every",)


@dataclass(frozen=True)
class TrainingState:
    """What a run is after `step` steps.

    run: plain values that must be the same on resume (configuration, settings, seed, data); tensors: weights,
    average, moments and the generator by name; scaler: state of the loss scale, empty without one; updates: number
    of optimiser updates, which under float16 may be fewer than the steps.
    """

    step: int
    run: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    scaler: Mapping[str, Any]
    updates: int

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors named `prefix.…`, without the prefix."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def save_state(path: Path, state: TrainingState) -> None:
    """Write the state in one move; until it is whole the file keeps the last one. Raises CheckpointError."""
    values = {"format": _FORMAT, "step": state.step, "run": state.run, "scaler": state.scaler, "updates": state.updates}
    write_safetensors(path, state.tensors, {_KEY: json.dumps(values)})


def load_state(path: Path, run: Mapping[str, Any]) -> TrainingState:
    """Read a state and check that it is of the same run.

    Raises CheckpointError when the file is damaged or no training state, ConfigError when a value of `run` was
    another when the training began.
    """
    tensors, metadata = read_state(path, key=None)
    try:
        values = json.loads(metadata[_KEY])
        state = TrainingState(values["step"], values["run"], tensors, values["scaler"], values["updates"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is no training state of himar; resume from the folder of a training.") from error
    if values.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} has format {values.get('format')!r} and this version reads {_FORMAT}; "
            f"resume with the himar that wrote it."
        )
    require_same_run(state.run, run, path)
    return state


def require_same_run(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError that names the first value that differs, and both values."""
    before, after = dict(_flat(plain(saved))), dict(_flat(plain(now)))
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, "not set"), after.get(key, "not set")
        same = _near(old, new) if key == _MEASURED else old == new
        if key not in _FREE and not same:
            raise ConfigError(
                f"{key} was {old!r} when this training began and is {new!r} now; "
                f"give the same value to resume {path}, or train into another folder."
            )


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON gives them back: tuples as lists."""
    return json.loads(json.dumps(values))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _near(old: Any, new: Any) -> bool:
    if not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
        return False
    return all(math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for a, b in zip(old, new, strict=True))


def generator_state(tensor: Tensor) -> Tensor:
    """Return a generator's state as `torch.Generator.set_state` takes it."""
    return tensor.to(torch.uint8).cpu()
