"""libhimar and its programs, built once by what `make cpp` runs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

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
    if not (DEPENDENCIES / "include" / "onnxruntime").exists():
        pytest.skip("needs ONNX Runtime's C++ headers in build/cpp-deps: run `make cpp` once, which fetches them")
    BUILD.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{BUILD}.lock"):
        _run("cmake", "--preset", "release", f"-DHIMAR_PYTHON={sys.executable}", cwd=SOURCES)
        _run("cmake", "--build", "--preset", "release", cwd=SOURCES)
    return BUILD


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def library(built: Path) -> Any:
    """libhimar.so: library.py, class Library."""
    return _module("cpp_library", Path(__file__).with_name("library.py")).Library(built / "libhimar.so")


build_variant = _module("export_conftest", ROOT / "tests" / "export" / "conftest.py").build_variant
"""The fixture of tests/export."""
