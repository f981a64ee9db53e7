"""Where our operators for ONNX Runtime lie: the library that half-precision sessions on a GPU load.

Half-precision graphs define these operators as functions of standard ones, so that a session without the library gives
the same numbers, on a GPU only slower. `make cuda` compiles it (see fused_compile).
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import EngineError

VARIABLE = "HIMAR_FUSED_LIBRARY"


def library_path() -> Path:
    """Return where the compiled library lies in the package; it need not exist."""
    return Path(__file__).parent / "fused" / "compiled" / "libhimar_fused.so"


def find_library() -> Path | None:
    """Return the library for CUDA: $HIMAR_FUSED_LIBRARY ("": none), else the package's own, None where there is none.

    Raises EngineError when the variable names no file.
    """
    named = os.environ.get(VARIABLE)
    if named is None:
        return library_path() if library_path().is_file() else None
    if named and not Path(named).is_file():
        raise EngineError(f"${VARIABLE} is {named!r}, which is no file; `make cuda` compiles the library.")
    return Path(named) if named else None
