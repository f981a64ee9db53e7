"""Writes what a command writes at `--out`: checked before the work begins, written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from himar_kernels import BuildError
from himar_kernels.shared.files import new_file, require_writable_file


def require_new(target: Path) -> None:
    """Raise BuildError unless `target` is still free and the folder it goes into exists and can be written to."""
    if target.exists() or target.is_symlink():
        raise BuildError(f"{target} exists already; remove it or choose another --out.")
    require_writable_file(target, BuildError)


def write_npz(target: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as a compressed .npz, in one move. Raises BuildError."""
    with new_file(target, BuildError) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)
