"""Keeps files that save time at the next start: compiled kernels and run-time code. Losing them costs only time."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from himar_kernels import InputError
from himar_kernels.shared.files import new_file

log = logging.getLogger(__name__)


def cache_directory(kind: str) -> Path:
    """Return the folder of a kind of cached files: $XDG_CACHE_HOME/himar/KIND, else under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "himar" / kind


def keep(path: Path, content: bytes) -> None:
    """Write a cached file in one move; one that cannot be written is logged, never an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as unfinished:
            unfinished.write_bytes(content)
    except (OSError, InputError) as error:
        log.warning("%s could not be kept, so the next start takes as long as this one: %s", path, error)
