"""Finds NVIDIA's library for each TensorRT backend, and passes its messages to Python's logging.

    backend        builds with        runs with
    tensorrt       tensorrt           tensorrt, else tensorrt_lean (engines built with --version-compatible)
    tensorrt-rtx   tensorrt_rtx       tensorrt_rtx

The three share one Python API, so what builds and what runs engines takes the library as an argument. Nothing is
imported before it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from himar_kernels import BuildError, EngineError

log = logging.getLogger(__name__)

RUNS: Mapping[str, Sequence[str]] = {"tensorrt": ("tensorrt", "tensorrt_lean"), "tensorrt-rtx": ("tensorrt_rtx",)}
BUILDS: Mapping[str, Sequence[str]] = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx",)}

_NVIDIA_INDEX = "--extra-index-url https://pypi.nvidia.com"
_INSTALL = {
    "tensorrt": f"pip install 'himar[tensorrt]' {_NVIDIA_INDEX}",
    "tensorrt-rtx": "pip install 'himar[tensorrt-rtx]'",
}


def load_library(backend: str) -> ModuleType:
    """Import what runs the engines of a backend; EngineError when the backend is unknown or nothing is installed."""
    if backend not in RUNS:
        raise EngineError(f"backend {backend!r} is not TensorRT; known are {', '.join(RUNS)}.")
    module = _first(RUNS[backend])
    if module is None:
        lean = " (himar[tensorrt-lean] is enough for engines built with --version-compatible)"
        raise EngineError(
            f"these engines run on {backend}, but {' or '.join(RUNS[backend])} is not installed here; "
            f"{_INSTALL[backend]}{lean if backend == 'tensorrt' else ''}."
        )
    return module


def load_builder(backend: str) -> ModuleType:
    """Import what builds the engines of a backend; BuildError when the backend is unknown or it is not installed."""
    if backend not in BUILDS:
        raise BuildError(f"backend {backend!r} is not TensorRT; known are {', '.join(BUILDS)}.")
    module = _first(BUILDS[backend])
    if module is None:
        raise BuildError(
            f"building for {backend} needs {BUILDS[backend][0]}, which is not installed here; {_INSTALL[backend]}."
        )
    return module


def library_version(library: ModuleType) -> str:
    """Return the version of a TensorRT library, such as "1.7.1.116"."""
    return str(library.__version__)


class _Messages:
    """Takes a TensorRT library's messages: to logging, and errors also to those that collect them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._collecting: list[list[str]] = []

    def collect(self) -> list[str]:
        lines: list[str] = []
        with self._lock:
            self._collecting.append(lines)
        return lines

    def release(self, lines: list[str]) -> None:
        with self._lock:
            self._collecting = [each for each in self._collecting if each is not lines]

    def take(self, is_error: bool, is_warning: bool, text: str) -> None:
        collected = False
        if is_error:
            with self._lock:
                for lines in self._collecting:
                    lines.append(text)
                collected = bool(self._collecting)
        # A collected error comes back in the text of an exception. TensorRT's warnings concern its own decisions.
        level = logging.WARNING if is_error and not collected else logging.INFO if is_warning else logging.DEBUG
        log.log(level, "%s: %s", self._name, text.strip())


@functools.cache
def library_logger(library: ModuleType) -> Any:
    """Return the library's logger, an ILogger that forwards to Python's logging.

    There is one for a process: TensorRT keeps the first that it is given and calls it for as long as it is loaded, so
    that logger has to live as long.
    """
    severity = library.ILogger.Severity
    messages = _Messages(library.__name__)

    class Logger(library.ILogger):  # type: ignore[name-defined]
        """Forwards TensorRT's messages."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.messages = messages

        def log(self, level: Any, text: str) -> None:
            """Called by TensorRT, from any of its threads."""
            is_error = level in (severity.INTERNAL_ERROR, severity.ERROR)
            messages.take(is_error, level == severity.WARNING, text)

    return Logger()


@contextmanager
def collected_errors(library: ModuleType) -> Iterator[list[str]]:
    """Yield a list that fills with the errors that the library logs meanwhile, from whichever thread."""
    messages = library_logger(library).messages
    lines = messages.collect()
    try:
        yield lines
    finally:
        messages.release(lines)


def first_error(lines: Sequence[str]) -> str:
    """Return the first error's first line, or a phrase that says there was none."""
    text = next((line.strip() for line in lines if line.strip()), "")
    return text.splitlines()[0] if text else "TensorRT reported no reason"


def _first(names: Sequence[str]) -> ModuleType | None:
    """Import the first of the modules that is installed; one whose own libraries do not load counts as absent."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            log.debug("%s: %s", name, error)
        except (ImportError, OSError) as error:
            log.warning("%s is installed but does not load: %s", name, error)
    return None
