"""Reading and writing files of tensors: PyTorch checkpoints (safely) and safetensors (atomically)."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from himar_kernels import CheckpointError
from himar_kernels.files import new_file, refusal

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt")


def read_state(path: Path, *, key: str | None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (state dict, string metadata) of a `.pth`/`.pt`/`.ckpt` or `.safetensors` file, on the CPU.

    In a PyTorch file `key` names the entry that holds the state dict ("model_ema", "model"); None means that
    the file is the state dict itself; its metadata is empty. A safetensors file holds one state dict, so
    `key` does not apply to it. Only tensors, plain values and `argparse.Namespace` are ever unpickled
    (himar-model.md §2).
    Raises CheckpointError when the file is missing, damaged, unsafe or has no such entry.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file; check the path.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in TORCH_SUFFIXES:
        kinds = ", ".join([*TORCH_SUFFIXES, ".safetensors"])
        raise CheckpointError(f"{path} has the ending {path.suffix!r}; checkpoints end in one of {kinds}.")
    content = _load_torch(path)
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            present = ", ".join(sorted(map(str, content))[:8]) if isinstance(content, Mapping) else "no keys at all"
            raise CheckpointError(f"{path} has no entry {key!r}; it holds {present}.")
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict{f' under {key!r}' if key else ''}.")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor of a state dict.")
    return dict(content), {}


def require_finite(name: str, tensor: torch.Tensor, path: Path) -> None:
    """Raise CheckpointError when weights hold NaN or infinity: every image of such a model would be noise."""
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name} holds values that are not finite; take another checkpoint.")


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


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); fetch or write it again.") from error


def _load_torch(path: Path) -> Any:
    # Mapping the file keeps the optimizer's tensors of a training checkpoint out of memory.
    try:
        mapped = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"(?:Unsupported global: |Unsupported class |Trying to .* )?GLOBAL (\S+)", str(error))
        if unsafe:
            raise CheckpointError(
                f"{path} holds {unsafe[1]}, which is no tensor or plain value and could run code; "
                f"save only state dicts."
            ) from error
        raise CheckpointError(f"{path} is damaged or not a PyTorch checkpoint; fetch it again.") from error
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise CheckpointError(f"{path} is damaged or cut short; fetch it again.") from error
