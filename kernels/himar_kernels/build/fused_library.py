"""Finds our operators for ONNX Runtime: the library that half-precision sessions on a GPU load.

Half-precision graphs define these operators as functions of standard ones, so that a session without the library gives
the same numbers to half precision's rounding, with more passes over memory. `build.fused` makes it. Its name carries
the hash of its sources, so that one of other sources is never run.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..shared.errors import EngineError
from .sources import hash_of

VARIABLE = "HIMAR_FUSED_LIBRARY"
HOW_TO_COMPILE = "`make cuda`, or python -m himar_kernels.build.fused --onnxruntime INCLUDE, compiles them"


def source_directory() -> Path:
    """Return the folder of the operators' sources."""
    return Path(__file__).parents[1] / "fused"


def library_path() -> Path:
    """Return where the library compiled from these sources lies in the package; it need not exist."""
    return source_directory() / "compiled" / f"libhimar_fused-{hash_of(source_directory().glob('*.c*'))}.so"


def find_library() -> Path | None:
    """Return the library for CUDA: $HIMAR_FUSED_LIBRARY ("": none), else the package's own, None where there is none.

    Raises EngineError when the variable names no file.
    """
    named = os.environ.get(VARIABLE)
    if named is None:
        return library_path() if library_path().is_file() else None
    if named and not Path(named).is_file():
        raise EngineError(
            f"${VARIABLE} is {named!r}, which is not a file; unset it, or set it to nothing to go without."
        )
    return Path(named) if named else None
