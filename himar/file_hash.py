"""The sha256 of a file, by which caches and measurements name the weights they were made with."""

from __future__ import annotations

import hashlib
from pathlib import Path

from himar_kernels import InputError


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
