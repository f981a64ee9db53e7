"""The sha256 of a file, by which caches and measurements name the weights they were made with."""

from __future__ import annotations

import hashlib
from pathlib import Path

from himar_kernels import InputError

from .checkpoint_files import parts_of


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


def weights_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a checkpoint's weights: of its file, or of the digests of an index and its shards.

    A folder has the digest of what it is read from. Raises InputError or CheckpointError when it cannot be read.
    """
    digests = [file_sha256(part) for part in parts_of(path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
