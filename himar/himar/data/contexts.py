"""Reads contexts of texts, what a text tower makes of them, from files that hold nothing else."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from himar_kernels import InputError
from himar_kernels.shared.recordings import load_recording

CONTEXTS = "contexts"


def read_contexts(path: Path) -> Tensor:
    """Return the array `contexts` of an .npz file as float32 (B, K, W).

    Its shape is for the model to judge. Raises InputError when the file is missing or no .npz, or has no array of
    floats of this name.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; give an .npz file with an array {CONTEXTS!r}.")
    arrays = load_recording(path)
    if CONTEXTS not in arrays:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise InputError(f"{path} has no array {CONTEXTS!r} but {found}; write it with numpy.savez(..., contexts=...).")
    if arrays[CONTEXTS].dtype.kind != "f":
        raise InputError(f"{path}: {CONTEXTS} are {arrays[CONTEXTS].dtype}; give floats, not token ids.")
    return torch.from_numpy(arrays[CONTEXTS]).float()
