"""Finds a set of weights from what a user names: a file, a folder as model hubs have it, or an index of shards.

Recognises from their first bytes files that are not checkpoints, and says what to do instead.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from himar_kernels import CheckpointError
from himar_kernels.shared.console import NOTICES
from himar_kernels.shared.files import file_sha256

from .torch_files import read_torch
from .weight_sets import ANY, Network, choose

INDEX_ENDING = ".index.json"
_SHARD = re.compile(r"(.+)-0*(\d+)-of-0*(\d+)\.[a-z]+")
_SHARD_ENDINGS = (".safetensors", ".bin")

State = dict[str, torch.Tensor]

TORCH_ENDINGS = (".pth", ".pt", ".ckpt", ".bin")
ENDINGS = (*TORCH_ENDINGS, ".safetensors", f".safetensors{INDEX_ENDING}", f".bin{INDEX_ENDING}")
_CONFIG = "config.json"
_FIRST = (
    *(f"{name}.safetensors{more}" for name in ("model", "diffusion_pytorch_model") for more in ("", INDEX_ENDING)),
    *(f"{name}.bin{more}" for name in ("pytorch_model", "diffusion_pytorch_model") for more in ("", INDEX_ENDING)),
)
"""What a folder is read from where it holds one of these, safetensors before the others; else its only file."""
_BESIDE = re.compile(r"(training_args|training-state|optimizer|scheduler|scaler|rng_state|random_states).*")

_HEAD = 512
_UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "a GGUF file of llama.cpp"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
)
_PACKED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "packed with gzip"),
    (b"BZh", "packed with bzip2"),
    (b"\xfd7zXZ", "packed with xz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd"),
)
_FOREIGN_ENDINGS = {
    ".onnx": "an ONNX graph",
    ".msgpack": "a Flax file",
    ".h5": "a Keras file",
    ".pb": "a TensorFlow graph",
    ".index": "a part of a TensorFlow checkpoint",
    ".gguf": "a GGUF file of llama.cpp",
    ".engine": "an engine of TensorRT",
    ".plan": "an engine of TensorRT",
}
_READ = "himar reads PyTorch checkpoints (.pth, .pt, .ckpt, .bin) and .safetensors"


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
    """Read one set of weights; a choice between several is logged as a notice (see `weight_sets.choose`).

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
        return read_sharded(file, lambda shard: _tensors(shard, inert)), {}
    refuse_lone_shard(file)
    return _read_one(file, inert)


def _read_one(file: Path, inert: bool) -> tuple[Any, dict[str, str]]:
    try:
        foreign = what_it_is(file)
        with file.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}; check its permissions.") from error
    if foreign:
        raise CheckpointError(foreign)
    if file.suffix == ".safetensors" or is_safetensors(head):
        if head.startswith((b"PK", b"\x80")) and not is_safetensors(head):
            raise CheckpointError(f"{file} is a PyTorch file by its content; give it the ending .pth.")
        return read_safetensors(file)
    return read_torch(file, inert=inert), {}


def _tensors(shard: Path, inert: bool) -> dict[str, torch.Tensor]:
    content, _ = _read_one(shard, inert)
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(
            f"{shard} holds other things than tensors with names, so it is not a shard; fetch it again."
        )
    return dict(content)


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the string metadata of one file. Raises CheckpointError when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except Exception as error:  # A damaged header, or a type that the library does not know, raises anything.
        reason = " ".join(str(error).split())[:200] if isinstance(error, SafetensorError) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or cut short ({reason}); fetch or write it again.") from error


def weights_file(path: Path) -> Path:
    """Return the file or the index that holds the weights: `path`, or what is in it. Raises CheckpointError."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file; check the path.")
    try:
        inside = sorted(each.name for each in path.iterdir() if each.is_file())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; check its permissions.") from error
    first = [name for name in _FIRST if name in inside]
    first = [name for name in first if ".safetensors" in name] or first
    if not first:
        found = [name for name in inside if name.endswith(ENDINGS) and not _BESIDE.fullmatch(name)]
        first = [name for name in found if name.endswith(INDEX_ENDING)] or found
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
    if any(name.endswith(".distcp") for name in inside):
        return (
            "it is a distributed checkpoint in parts; join them with "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUT.pth"
        )
    unfinished = [name for name in inside if name.endswith((".incomplete", ".part"))]
    if unfinished:
        return f"{unfinished[0]} is an unfinished download; fetch it again"
    for below in ("vae", "transformer", "snapshots"):
        if (path / below).is_dir():
            return f"give a folder below {path / below}" if below == "snapshots" else f"give {path / below}"
    return f"give a file ({', '.join(ENDINGS[:-2])}) or a folder with model.safetensors or its index"


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}; fetch it again or remove it.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; fetch it again or remove it.")
    return values


def weights_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a checkpoint's weights: of its file, or of the digests of an index and its shards.

    A folder has the digest of what it is read from. Raises InputError or CheckpointError when it cannot be read.
    """
    digests = [file_sha256(part) for part in parts_of(path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


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
        if not isinstance(shard, str) or not shard.endswith(_SHARD_ENDINGS):
            raise CheckpointError(
                f"{index} lists {name} in {shard!r:.80}, which is not a {' or '.join(_SHARD_ENDINGS)} file."
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


def is_safetensors(head: bytes) -> bool:
    """Whether a file's first bytes are those of safetensors: a length, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def what_it_is(path: Path) -> str | None:
    """Return why a file is not a checkpoint and what to do, as one sentence, or None where it may be one.

    Raises OSError when it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if path.suffix in _UNFINISHED:
        return f"{path} is an unfinished download, {size} bytes of it; fetch it again."
    if not size:
        return f"{path} is damaged or cut short: it is empty, as a download that never began leaves it; fetch it again."
    if not head.strip(b"\0"):
        return f"{path} is damaged or cut short: it begins with zeros; fetch it again."
    return _text(path, head, size) or _binary(path, head)


def _text(path: Path, head: bytes, size: int) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        wanted = re.search(rb"size (\d+)", head)
        of = f" to a file of {wanted[1].decode()} bytes" if wanted else ""
        return f"{path} is a Git LFS pointer{of}, not the weights; run git lfs pull in its folder."
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<error", b"<!--")):
        return f"{path} is a web page ({size} bytes of HTML or XML), not the weights; fetch the file itself, logged in."
    if start.startswith((b"{", b"[")) and not is_safetensors(head):
        return f"{path} is a JSON file or a server's answer, not weights; give the file or folder that it describes."
    return None


def _binary(path: Path, head: bytes) -> str | None:
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return f"{path} is {what}, not a checkpoint; {_READ}."
    packed = next((what for magic, what in _PACKED if head.startswith(magic)), None)
    if packed or head[257:262] == b"ustar":
        return f"{path} is {packed or 'a tar archive'}; unpack it and give the weights in it."
    if head.startswith(b"PK"):
        return _archive(path)
    if is_safetensors(head) or head.startswith(b"\x80"):
        return None
    if path.suffix in _FOREIGN_ENDINGS or ".data-" in path.name:
        return f"{path} is {_FOREIGN_ENDINGS.get(path.suffix, 'a part of a TensorFlow checkpoint')}; {_READ}."
    return f"{path} is damaged or cut short, or not a checkpoint: its first bytes are {head[:8]!r}; {_READ}."


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # A damaged archive raises anything.
        return f"{path} is damaged or cut short: a zip archive without its end, as a stopped download leaves it; " + (
            "fetch it again."
        )
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return f"{path} is a NumPy archive (.npz), not a checkpoint; write its arrays as safetensors. {_READ}."
    inside = next((name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".safetensors"))), None)
    if inside:
        return f"{path} is a zip archive with {inside!r} in it; unpack it and give that file."
    return f"{path} is a zip archive of other things ({', '.join(names[:3]) or 'nothing'}), not a checkpoint; {_READ}."
