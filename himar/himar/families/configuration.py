"""Reads what names a model's configuration, in every family: a preset, a JSON file or values. Needs no PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from himar_kernels import ConfigError

Normalise = Callable[[Mapping[str, Any], str], dict[str, Any]]
"""Turns the accepted spellings of values into a family's field names; its second argument names them in errors."""


def require_known(source: str | Path, presets: Collection[str]) -> None:
    """Raise ConfigError unless `source` is a preset's name or a file."""
    if str(source) not in presets and not os.path.isfile(source):  # noqa: PTH113 - a name too long is not a file either
        raise ConfigError(
            f"configuration {str(source)!r} is neither a preset ({', '.join(presets)}) nor a JSON file that exists."
        )


def read_values(
    source: str | Path | Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], normalise: Normalise, name: str
) -> dict[str, Any]:
    """Return the normalised values that a preset's name, a JSON file or a mapping gives.

    name: of a mapping in errors. Raises ConfigError for a name that is neither, and a file that holds no JSON object.
    """
    if isinstance(source, Mapping):
        return normalise(source, name)
    if str(source) in presets:
        return normalise(presets[str(source)], f"preset {source}")
    require_known(source, presets)
    path = Path(source)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a readable JSON file: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object, not {type(values).__name__}.")
    return normalise(values, str(path))
