"""Files that save time at the next start: compiled kernels and engines' run-time code. Losing them costs time only."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def cache_directory(kind: str) -> Path:
    """Return the folder of a kind of cached files: $XDG_CACHE_HOME/himar/KIND, else under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "himar" / kind


def keep(path: Path, content: bytes) -> None:
    """Write a cached file in one move; a folder that cannot be written is logged, never an error."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        log.warning("%s could not be kept: %s", path, error.strerror or error)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
