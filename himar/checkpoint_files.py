"""From what a user names to a set of weights: a file, a folder as model hubs give it, or an index of shards."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from himar_kernels import CheckpointError
from himar_kernels.console import NOTICES

from .foreign_files import is_safetensors, what_it_is
from .safetensors_files import INDEX_ENDING, read_index, read_safetensors, read_sharded, refuse_lone_shard
from .torch_files import read_torch
from .weight_sets import ANY, Network, choose

TORCH_ENDINGS = (".pth", ".pt", ".ckpt", ".bin")
ENDINGS = (*TORCH_ENDINGS, ".safetensors", f".safetensors{INDEX_ENDING}")
_CONFIG = "config.json"
_FIRST = (
    "model.safetensors",
    f"model.safetensors{INDEX_ENDING}",
    "diffusion_pytorch_model.safetensors",
    f"diffusion_pytorch_model.safetensors{INDEX_ENDING}",
)
"""What a folder is read from where it holds one of these; else its only file of weights."""


@dataclass(frozen=True)
class Weights:
    """A set of weights as it is stored, wrappers and prefixes taken off its names.

    entry: the entry that it stood in, "" where the file held nothing else; metadata: of a safetensors file; config: a
    folder's config.json; file: what was read of a folder.
    """

    state: dict[str, torch.Tensor]
    entry: str
    file: Path
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def read_weights(path: Path, weights: str | None = None, *, network: Network = ANY, inert: bool = False) -> Weights:
    """Read one set of weights; a choice between several is logged as a notice. `himar.weight_sets.choose` says how.

    path: a file of PyTorch or safetensors, a folder with one, or an index of shards; inert: as `read_torch` has it.
    Raises CheckpointError, as one sentence with the way out, for everything that is none of these.
    """
    file = weights_file(path)
    config = _config(path / _CONFIG) if path.is_dir() else {}
    content, metadata = read_content(file, inert=inert)
    try:
        chosen, notice = choose(content, file, weights, network)
    except RecursionError as error:
        raise CheckpointError(f"{file} holds itself; save the model's state_dict().") from error
    if notice:
        NOTICES.log(logging.INFO, notice)
    return Weights(chosen.state, chosen.label, file, metadata, config)


def read_content(file: Path, *, inert: bool = False) -> tuple[Any, dict[str, str]]:
    """Return what a file or an index of shards holds, and its metadata. Raises CheckpointError."""
    if file.name.endswith(INDEX_ENDING):
        return read_sharded(file), {}
    refuse_lone_shard(file)
    try:
        foreign = what_it_is(file)
        with file.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}; check its rights.") from error
    if foreign:
        raise CheckpointError(foreign)
    if file.suffix == ".safetensors" or is_safetensors(head):
        if head.startswith((b"PK", b"\x80")) and not is_safetensors(head):
            raise CheckpointError(f"{file} is a PyTorch file by its content; give it the ending .pth.")
        return read_safetensors(file)
    return read_torch(file, inert=inert), {}


def weights_file(path: Path) -> Path:
    """Return the file or the index that holds the weights: `path`, or what is in it. Raises CheckpointError."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file; check the path.")
    try:
        inside = sorted(each.name for each in path.iterdir() if each.is_file())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; check its rights.") from error
    first = [name for name in _FIRST if name in inside]
    if not first:
        found = [name for name in inside if name.endswith(f".safetensors{INDEX_ENDING}")]
        first = found or [name for name in inside if name.endswith(ENDINGS[:-1])]
    if len(first) == 1:
        return path / first[0]
    if first:
        raise CheckpointError(f"{path} holds {', '.join(first[:4])}, each of them weights; give one of them.")
    raise CheckpointError(f"{path} is a folder without a checkpoint: {_instead(path, inside)}.")


def parts_of(path: Path) -> list[Path]:
    """Return every file that the weights at `path` stand in: one, or an index and its shards."""
    file = weights_file(path)
    if not file.name.endswith(INDEX_ENDING):
        return [file]
    return [file, *(file.parent / shard for shard in sorted(set(read_index(file).values())))]


def looks_like_checkpoint(path: Path) -> bool:
    """Whether a path's ending, or a folder's files, are a checkpoint's. Reads no weights."""
    if path.is_dir():
        return (path / _CONFIG).is_file() or any((path / name).is_file() for name in _FIRST)
    return path.name.endswith(ENDINGS)


def _instead(path: Path, inside: list[str]) -> str:
    if "manifest.json" in inside:
        return "it is a bundle of engines; give the checkpoint that it was built from"
    unfinished = [name for name in inside if name.endswith((".incomplete", ".part"))]
    if unfinished:
        return f"{unfinished[0]} is an unfinished download; fetch it again"
    for below in ("vae", "transformer", "snapshots"):
        if (path / below).is_dir():
            return f"give a folder below {path / below}" if below == "snapshots" else f"give {path / below}"
    return f"give a file ({', '.join(ENDINGS[:-1])}) or a folder with model.safetensors or its index"


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}; fetch it again or remove it.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object; fetch it again or remove it.")
    return values
