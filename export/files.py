"""Writing files and folders in one move: an interruption leaves the old state, never a half-made one."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from himar_kernels import BuildError


def require_new(target: Path) -> None:
    """Raise BuildError unless `target` is still free and the folder it goes into exists."""
    if target.exists() or target.is_symlink():
        raise BuildError(f"{target} exists already; remove it or choose another --out.")
    if not target.absolute().parent.is_dir():
        raise BuildError(f"the folder {target.absolute().parent} does not exist; create it first.")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target` that becomes `target` on success and vanishes otherwise.

    Raises BuildError when `target` exists, its parent does not, or the disk refuses (full, read-only).
    """
    require_new(target)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
    except OSError as error:
        raise BuildError(f"{target.absolute().parent} cannot be written to: {error.strerror}.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(target)
    except OSError as error:
        raise BuildError(f"{target} could not be written: {error.strerror or error}; nothing was left.") from error
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it on success and vanishes otherwise (BuildError)."""
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            prefix=f".{target.name}.", suffix=target.suffix, dir=target.absolute().parent, delete=False
        ) as file:
            temporary = Path(file.name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise BuildError(f"{target} could not be written: {error.strerror or error}; nothing was left.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_npz(target: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as a compressed .npz, in one move."""
    with new_file(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
