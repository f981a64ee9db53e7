"""Holds what the studies of digits share: records that they continue, and bundles that they refuse beforehand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from himar_kernels import InputError
from himar_kernels.families.hi_mar.phases import VAE_DECODER
from himar_kernels.shared.files import require_writable_file, require_writable_folder
from himar_runtime import Bundle

COUNT = click.IntRange(1, 100_000)
IMAGES = click.IntRange(10, 100_000)
"""At least one image of every digit."""

FIGURES = ("distance", "precision", "recall", "recognised")
"""What every study's tables show of a set of digits."""


def read_study(
    path: Path, asked: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any] | None:
    """Return what a study's file holds, None where there is no file.

    asked: what its figures have in common. check: raises TypeError or KeyError where the rest is of another form.
    Raises InputError for a file that is not a record of the study, and for one of other figures.
    """
    if not path.exists():
        return None
    try:
        study: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before = {name: study[name] for name in asked}
        check(study)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not a record of this study ({error!r}); choose another --out.") from error
    other = [f"{name} {before[name]!r}, not {value!r}" for name, value in asked.items() if before[name] != value]
    if other:
        raise InputError(f"{path} was measured with {', and '.join(other)}; choose another --out.")
    return study


def fields(values: Any) -> Mapping[str, Any]:
    """Return an object of JSON. Raises TypeError for another value."""
    if not isinstance(values, dict):
        raise TypeError(f"{values!r:.40} is not an object")
    return values


def require_numbers(values: Any, *names: str) -> None:
    """Raise TypeError or KeyError unless an object of JSON has finite numbers under these names."""
    for name in names:
        value = fields(values)[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TypeError(f"{name} is {value!r:.40}, not a finite number")


def require_decoder(bundle: Path) -> None:
    """Raise InputError for a bundle that gives latents alone."""
    if VAE_DECODER not in Bundle.open(bundle).manifest.components:
        raise InputError(f"{bundle} has no VAE decoder, so it produces no images; build it with --vae.")


def require_writable(*targets: Path) -> None:
    """Raise InputError unless these files can be written, for work that takes long before it writes.

    Their folders need not exist yet.
    """
    for target in targets:
        require_writable_folder(target.parent)
        if target.parent.exists():
            require_writable_file(target)
