"""Reads and writes what a file of ours carries beside weights, and checks weights against a model, in every family."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from himar_kernels import CheckpointError

from .checkpoint_files import Weights
from .files import write_safetensors

_NAMES_KEY = "himar_class_names"


def save_model(
    path: Path,
    model: nn.Module,
    dtype: torch.dtype,
    config_key: str,
    config: Mapping[str, Any],
    class_names: tuple[str, ...] | None,
) -> None:
    """Write tensors, configuration (under `config_key`) and class names as safetensors, in one move."""
    tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    metadata = {config_key: json.dumps(config)}
    if class_names is not None:
        metadata[_NAMES_KEY] = json.dumps(class_names)
    write_safetensors(path, tensors, metadata)


def carried_config(
    read: Weights,
    config_key: str,
    known: Collection[str],
    read_config: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    """Return the configuration that a file of ours or a folder's config.json carries; of the latter the `known` keys.

    read_config: of the family; it takes values and, in errors, their name. Raises CheckpointError and ConfigError.
    """
    beside = {name: value for name, value in read.config.items() if name in known}
    values = read_config(beside, str(read.file.with_name("config.json"))) if beside else {}
    if config_key in read.metadata:
        values |= read_config(_embedded_config(read.metadata[config_key], read.file))
    return values


def carried_names(read: Weights, classes: int, path: Path) -> tuple[str, ...] | None:
    """Return the class names that a file of ours carries, None where it has none; CheckpointError for other counts."""
    if _NAMES_KEY not in read.metadata:
        return None
    try:
        names = json.loads(read.metadata[_NAMES_KEY])
    except json.JSONDecodeError:
        names = None
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path} carries class names that are not a list of {classes}; write the file again.")
    return tuple(names)


def require_layout(model: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Raise CheckpointError unless weights have the model's names and shapes; what: "a Hi-MAR checkpoint"."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() ^ state.keys()):
        verb = "lacks" if name in expected else "has an unknown"
        raise CheckpointError(f"{path} is not {what} of the released layout: it {verb} {name}.")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, but the rest of the checkpoint requires {shape}."
            )


def _embedded_config(text: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} carries a configuration that is not JSON; write the file again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} carries a configuration that is not a JSON object; write the file again.")
    return values
