"""Reads recordings: the arrays of eager runs and components, in a layout that each model family defines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError


def load_recording(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read every array of a .npz recording; InputError when it is no such file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive fails in zipfile, zlib, tokenize or NumPy, each in its own way
        raise InputError(f"{path} is not a readable .npz recording: {error}.") from error
