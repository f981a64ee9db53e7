"""Reads and writes files of tensors: PyTorch checkpoints (safely) and safetensors (atomically)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from himar_kernels import CheckpointError
from himar_kernels.shared.files import new_file, refusal

from .checkpoint_files import read_content


def read_state(path: Path, *, key: str | None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (state dict, string metadata) of a `.pth`/`.pt`/`.ckpt` or `.safetensors` file, on the CPU, as it stands.

    In a PyTorch file `key` names the entry that holds the state dict ("model_ema", "model"); None means that
    the file is the state dict itself; its metadata is empty. A safetensors file holds one state dict, so
    `key` does not apply to it. Nothing in the file is run (`torch_files`). Weights whose entry and prefixes may be
    called anything are read by `checkpoint_files`.
    Raises CheckpointError when the file is missing, damaged, unsafe or has no such entry.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file; check the path.")
    content, metadata = read_content(path)
    if key is not None and path.suffix != ".safetensors":
        if not isinstance(content, Mapping) or key not in content:
            present = ", ".join(sorted(map(str, content))[:8]) if isinstance(content, Mapping) else "no keys at all"
            raise CheckpointError(f"{path} has no entry {key!r}; it holds {present}.")
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict{f' under {key!r}' if key else ''}.")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor of a state dict.")
    return dict(content), metadata


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and string metadata to `path` in one move; a failure leaves an older file as it was.

    Raises CheckpointError when the folder cannot be made or written to.
    """
    with _whole_file(Path(path)) as unfinished:
        save_file({name: _own_storage(tensor) for name, tensor in tensors.items()}, unfinished, metadata=dict(metadata))


def write_torch(path: Path, content: Mapping[str, Any]) -> None:
    """Write a PyTorch checkpoint as `write_safetensors` does: in one move. Raises CheckpointError."""
    with _whole_file(Path(path)) as unfinished:
        torch.save(dict(content), unfinished)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Yield a file that becomes `path` when it is whole, in a folder that is made if it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(refusal(path, error)) from error
    with new_file(path, CheckpointError) as unfinished:
        try:
            yield unfinished
        except (SafetensorError, RuntimeError) as error:
            # Both libraries wrap the system's error in one of their own.
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error


def _own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor on the CPU, alone in its memory: safetensors refuses views of a shared one."""
    plain = tensor.detach().cpu().contiguous()
    return plain.clone() if plain.untyped_storage().nbytes() != plain.nbytes else plain
