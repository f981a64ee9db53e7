"""Reads what names a model's configuration, in every family: a preset, a JSON file or values. Needs no PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from himar_kernels import ConfigError
from himar_kernels.families.registry import FAMILIES, HI_MAR, family_presets

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


def find_family(config: str | Path, describes: Callable[[str, Collection[str]], bool]) -> str:
    """Return the family that a preset, or a JSON file by its keys, describes; hi_mar where nothing tells.

    describes: whether a configuration file with these keys is of the family of that name, where nothing else tells.
    """
    for name in FAMILIES:
        if str(config) in family_presets(name):
            return name
    try:
        values = json.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return HI_MAR  # its reader says what is wrong
    keys = {*values, *(values.get("config") or {})} if isinstance(values, dict) else set()
    return next((name for name in FAMILIES if name != HI_MAR and describes(name, keys)), HI_MAR)
