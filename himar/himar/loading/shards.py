"""Reads weights in several files, as an index lists them. The index is binding."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from himar_kernels import CheckpointError

INDEX_ENDING = ".index.json"
_SHARD = re.compile(r"(.+)-0*(\d+)-of-0*(\d+)\.[a-z]+")
_ENDINGS = (".safetensors", ".bin")

State = dict[str, torch.Tensor]


def read_sharded(index: Path, read: Callable[[Path], State]) -> State:
    """Return the tensors that an index lists, each from the shard that it says; `read` reads one shard.

    Raises CheckpointError, naming tensor and shard, when a shard is missing or has another set of tensors.
    """
    where = read_index(index)
    state: State = {}
    for shard in sorted(set(where.values())):
        path = index.parent / shard
        if not path.is_file():
            raise CheckpointError(f"{index} lists the shard {shard}, which is not beside it; fetch it too.")
        tensors = read(path)
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
        raise CheckpointError(f"{index} is not an index of shards: {error}; fetch it again.") from error
    where = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(where, Mapping) or not where:
        raise CheckpointError(f"{index} is not an index of shards: it has no weight_map; give the weights themselves.")
    for name, shard in where.items():
        if not isinstance(shard, str) or not shard.endswith(_ENDINGS):
            raise CheckpointError(
                f"{index} lists {name} in {shard!r:.80}, which is not a {' or '.join(_ENDINGS)} file."
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
