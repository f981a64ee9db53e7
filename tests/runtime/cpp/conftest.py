"""libhimar and its programs, built once by what `make cpp` runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.export.conftest import build_variant, small_variant
from tests.runtime.cpp.library import Library

ROOT = Path(__file__).parents[3]
SOURCES, DEPENDENCIES = ROOT / "runtime" / "cpp", ROOT / "build" / "cpp-deps"
BUILD = ROOT / "build" / "cpp" / "release"


def _run(*command: str | Path, code: int = 0, **options: Any) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a command that must end with `code`; its output, or what it said on stderr where code is not 0."""
    return _run


@pytest.fixture(scope="session")
def built() -> Path:
    """The build folder of `make cpp`, brought up to date."""
    for tool in ("cmake", "c++", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    for header in ("onnxruntime", "utf8proc.h"):
        if not (DEPENDENCIES / "include" / header).exists():
            pytest.skip(f"needs {header} in build/cpp-deps/include: run `make cpp` once, which fetches it")
    BUILD.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{BUILD}.lock"):
        _run("cmake", "--preset", "release", f"-DHIMAR_PYTHON={sys.executable}", cwd=SOURCES)
        _run("cmake", "--build", "--preset", "release", cwd=SOURCES)
    return BUILD


@pytest.fixture(scope="session")
def library(built: Path) -> Library:
    """libhimar.so through ctypes."""
    return Library(built / "libhimar.so")


__all__ = ["build_variant", "small_variant"]  # the fixtures of tests/export
