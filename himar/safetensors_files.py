"""Reads safetensors: a file, or the shards that an index lists. The index is binding."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from himar_kernels import CheckpointError

INDEX_ENDING = ".index.json"
_SHARD = re.compile(r"(.+)-0*(\d+)-of-0*(\d+)\.[a-z]+")

State = dict[str, torch.Tensor]


def read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    """Return the tensors and the string metadata of one file. Raises CheckpointError when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except Exception as error:  # A damaged header, or a type that the library does not know, raises anything.
        reason = " ".join(str(error).split())[:200] if isinstance(error, SafetensorError) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or cut short ({reason}); fetch or write it again.") from error


def read_sharded(index: Path) -> State:
    """Return the tensors that an index lists, each from the shard that it says.

    Raises CheckpointError, naming tensor and shard, when a shard is missing or has another set of tensors.
    """
    where = read_index(index)
    state: State = {}
    for shard in sorted(set(where.values())):
        path = index.parent / shard
        if not path.is_file():
            raise CheckpointError(f"{index} lists the shard {shard}, which is not beside it; fetch it too.")
        tensors, _ = read_safetensors(path)
        wanted = {name for name, listed in where.items() if listed == shard}
        for name in tensors:
            if name not in where:
                raise CheckpointError(f"{path} holds {name}, which {index.name} does not list; fetch both again.")
            if where[name] != shard:
                raise CheckpointError(
                    f"{path} holds {name}, which {index.name} lists in {where[name]}; fetch the shards and it again."
                )
        missing = sorted(wanted - tensors.keys())
        if missing:
            raise CheckpointError(f"{path} has no {missing[0]}, which {index.name} lists there; fetch both again.")
        state |= tensors
    return state


def read_index(index: Path) -> dict[str, str]:
    """Return tensor name → shard's file name. Raises CheckpointError when it is none, or leads out of its folder."""
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error}; fetch it again.") from error
    where = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(where, Mapping) or not where:
        raise CheckpointError(f"{index} is no index of shards: it has no weight_map; give the weights themselves.")
    for name, shard in where.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} lists {name} in {shard!r}; himar reads shards in safetensors, so give those instead."
            )
        parts = PurePosixPath(shard.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise CheckpointError(f"{index} lists {name} in {shard}, outside of its folder; that is not read.")
    return dict(where)


def refuse_lone_shard(path: Path) -> None:
    """Raise CheckpointError for a file that is named as one of several shards."""
    found = _SHARD.fullmatch(path.name)
    if found and int(found[3]) > 1:
        name = f"{found[1]}{path.suffix}{INDEX_ENDING}"
        raise CheckpointError(
            f"{path} is shard {found[2]} of {found[3]}, a part of the weights; give its folder, or {name} in it."
        )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name} stands in it twice")
        values[name] = value
    return values
