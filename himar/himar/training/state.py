"""Keeps a training's state on disk: all that the next step depends on, written so that a kill never loses it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from himar_kernels import CheckpointError, ConfigError

from ..loading.files import read_state, write_safetensors

STATE_FILE = "training-state.safetensors"
_KEY, _FORMAT = "himar_training", 1
_MEASURED, _TOLERANCE = ("data.token_means", "data.pixel_means"), 1e-3
"""Means of the same images' tokens or pixels differ between machines and thread counts by rounding alone."""

_NAMES = "data.class_names"

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


def require_free(path: Path, resume: bool) -> None:
    """Raise CheckpointError when `path` holds a training that is not to be resumed."""
    if path.exists() and not resume:
        raise CheckpointError(f"{path} holds a training; resume it, or train into another folder.")


def load_state(path: Path, run: Mapping[str, Any]) -> TrainingState:
    """Read a state and check that it is of the same run.

    Raises CheckpointError when the file is damaged or no training state, ConfigError when a value of `run` was
    another when the training began. Whether the tensors are this training's is for `require_tensors` to say.
    """
    tensors, metadata = read_state(path, key=None)
    try:
        values = json.loads(metadata[_KEY])
        state = TrainingState(values["step"], values["run"], tensors, values["scaler"], values["updates"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a training state of himar; resume from the folder of a training."
        ) from error
    if values.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} has format {values.get('format')!r} and this version reads {_FORMAT}; "
            f"resume with the himar that wrote it."
        )
    for name, kind in (("step", int), ("updates", int), ("run", dict), ("scaler", dict)):
        if type(values[name]) is not kind:
            raise _damaged(path, f"its {name} is {values[name]!r}")
    require_same_run(state.run, run, path)
    return state


def require_tensors(state: TrainingState, fresh: TrainingState, steps: int, path: Path) -> None:
    """Raise CheckpointError unless a state read from `path` can be continued.

    fresh: the state of the same training before its first step, whose tensors have the names, shapes and types that
    those read must have; steps: length of the run. Copying alone would not notice: a tensor of another shape may
    be repeated to fit.
    """
    if not 0 <= state.updates <= state.step <= steps:
        raise _damaged(path, f"it says {state.step} steps with {state.updates} updates, of {steps} steps in all")
    wanted = dict(fresh.tensors)
    parameters = fresh.group("model")
    for kind in ("exp_avg", "exp_avg_sq"):
        # Only what was trained has moments, and has both.
        trained = state.group("exp_avg").keys() | state.group("exp_avg_sq").keys()
        wanted |= {f"{kind}.{name}": parameters[name] for name in trained if name in parameters}
        if state.updates and not trained:
            raise _damaged(path, "it has no moments of the optimiser")
    for name in sorted(wanted.keys() ^ state.tensors.keys()):
        raise _damaged(path, f"it {'lacks' if name in wanted else 'has an unknown'} {name}")
    for name, tensor in wanted.items():
        found = state.tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            ours, theirs = (f"{value.dtype} {tuple(value.shape)}" for value in (tensor, found))
            raise _damaged(path, f"{name} is {theirs}, where this training has {ours}")
    if state.scaler.keys() != fresh.scaler.keys() or not all(map(_is_number, state.scaler.values())):
        raise _damaged(path, f"its loss scale is {dict(state.scaler)!r}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {what}; train anew in another folder, or restore a copy of it.")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def require_same_run(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError that names the first value that differs, and both values."""
    before, after = dict(_flat(plain(saved))), dict(_flat(plain(now)))
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, "not set"), after.get(key, "not set")
        if key == _NAMES:
            _require_order(old, new, path)
            continue
        same = _near(old, new) if key in _MEASURED else old == new
        if key not in _FREE and not same:
            raise ConfigError(
                f"{key} was {old!r} when this training began and is {new!r} now; "
                f"give the same value to resume {path}, or train into another folder."
            )


def _require_order(old: Any, new: Any, path: Path) -> None:
    """Raise ConfigError when classes have changed places; a renamed one stays what it was, unnamed ones say nothing."""
    if not isinstance(old, list) or not isinstance(new, list) or old == new or sorted(old) != sorted(new):
        return
    number = next(number for number, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
    raise ConfigError(
        f"class {number} was {old[number]!r} when this training began and is {new[number]!r} now; give data with the "
        f"classes in the same order to resume {path}, or train into another folder."
    )


def saved_data(path: Path) -> Mapping[str, Any]:
    """Return what a state says of its data, without reading its tensors; empty where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            data = json.loads(file.metadata()[_KEY])["run"]["data"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def is_same_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two data sets' fingerprints agree, as far as both say something."""
    try:
        require_same_run({"data": {**now, **saved}}, {"data": {**saved, **now}}, Path())
    except ConfigError:
        return False
    return True


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
    if not all(type(value) in (int, float) for value in old):
        return False
    return all(math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for a, b in zip(old, new, strict=True))


def generator_state(tensor: Tensor) -> Tensor:
    """Return a generator's state as `torch.Generator.set_state` takes it."""
    return tensor.to(torch.uint8).cpu()
