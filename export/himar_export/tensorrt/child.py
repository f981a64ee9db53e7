"""Builds engines in a process of its own: a crash inside NVIDIA's builder ends it, not the command that asked.

It takes requests on its standard input and answers on its standard output, both in pickle, and imports no PyTorch.
`process` starts it and asks.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from himar_kernels import BuildError
from himar_runtime import TensorSpec

from ..graph.precision_choice import Precision
from ..make.engine_cache import TimingCache
from .build import BuiltEngine, build_engine
from .options import EngineOptions

if TYPE_CHECKING:
    from ..graph.component import Component


@dataclass(frozen=True)
class Contract:
    """Of a component what its builder reads; see Component."""

    name: str
    inputs: tuple[TensorSpec, ...]
    profile: Mapping[str, tuple[int, int, int]]
    islands: tuple[str, ...]

    @classmethod
    def of(cls, component: Component) -> Contract:
        """Return a component's."""
        return cls(component.name, component.inputs, dict(component.profile), component.islands)


@dataclass(frozen=True)
class Request:
    """One engine to build. library: the module's name; log_level: the least level of records to send back."""

    library: str
    file: Path
    contract: Contract
    precision: Precision
    options: EngineOptions
    timing: TimingCache | None
    log_level: int


@dataclass(frozen=True)
class Progress:
    """An answer under way: how much of the engine is built, 0 to 1."""

    fraction: float


@dataclass(frozen=True)
class Record:
    """An answer under way: what the child logged."""

    logger: str
    level: int
    message: str


@dataclass(frozen=True)
class Refusal:
    """The last answer: the text of a BuildError."""

    message: str


Answer = Progress | Record | Refusal | BuiltEngine


class Answers(logging.Handler):
    """Writes answers, from any thread, and records of the log among them."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._writing = threading.Lock()

    def send(self, answer: Answer) -> None:
        """Write one answer whole. Raises BrokenPipeError where nobody reads any more."""
        data = pickle.dumps(answer)
        with self._writing:
            self._stream.write(data)
            self._stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record of the log."""
        self.send(Record(record.name, record.levelno, record.getMessage()))


def serve(requests: IO[bytes], answers: Answers) -> None:
    """Answer requests until there are no more."""
    while True:
        try:
            request: Request = pickle.load(requests)  # noqa: S301  # written by the process that started this one
        except EOFError:
            return
        logging.getLogger().setLevel(request.log_level)
        answers.send(_build(request, answers))


def _build(request: Request, answers: Answers) -> BuiltEngine | Refusal:
    def advance(fraction: float) -> None:
        answers.send(Progress(fraction))  # where nobody reads any more, this fails and so ends the build

    contract: Any = request.contract
    library = importlib.import_module(request.library)
    try:
        return build_engine(
            library, request.file, contract, request.precision, request.options, request.timing, advance
        )
    except BuildError as error:
        return Refusal(str(error))


def main() -> None:
    """Serve on this process's standard streams; what libraries print goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    answers = Answers(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    logging.getLogger().addHandler(answers)
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(1)  # the parent has gone; Python would only complain about the pipe again
