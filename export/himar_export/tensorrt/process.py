"""Starts processes that build engines: a crash becomes a sentence, and Ctrl-C ends them at once."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO

from himar_kernels import BuildError
from himar_runtime.engines.tensorrt.library import library_version

from ..graph.component import Component
from ..graph.precision_choice import Precision
from ..make.engine_cache import TimingCache
from .build import BuiltEngine
from .child import Answer, Contract, Progress, Record, Refusal, Request
from .options import EngineOptions

log = logging.getLogger(__name__)

# Not by -m: classes of a module that runs as __main__ cannot be read elsewhere.
CHILD = "from himar_export.tensorrt.child import main; main()"


class BuilderProcess:
    """A child that builds one engine after another; it starts with the first."""

    def __init__(self, library: ModuleType) -> None:
        """library: one of TensorRT's modules, which the child imports by its name."""
        self._library = library
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: IO[bytes] | None = None

    def __enter__(self) -> BuilderProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child, whatever it is at: it writes nothing but a timing cache, and that in one move."""
        if self._process is not None:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):  # what it was not asked any more
                    assert pipe is not None
                    pipe.close()
            self._process.wait()
        if self._printed is not None:
            self._printed.close()

    def build(
        self,
        file: Path,
        component: Component,
        precision: Precision,
        options: EngineOptions,
        timing: TimingCache | None = None,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> BuiltEngine:
        """Build an engine as `build.build_engine` does.

        Raises BuildError as that does, and when the child ends instead of answering.
        """
        level = logging.getLogger(__name__).getEffectiveLevel()
        process = self._start()
        assert process.stdin is not None and process.stdout is not None
        request = Request(
            self._library.__name__, file.resolve(), Contract.of(component), precision, options, timing, level
        )
        with contextlib.suppress(BrokenPipeError):  # it ended before it was asked: the answer says so
            process.stdin.write(pickle.dumps(request))
            process.stdin.flush()
        while True:
            try:
                answer: Answer = pickle.load(process.stdout)  # noqa: S301  # written by our own child
            except (EOFError, pickle.UnpicklingError):
                raise BuildError(self._epitaph(component.name, precision)) from None
            if isinstance(answer, Progress):
                progress(answer.fraction)
            elif isinstance(answer, Record):
                logging.getLogger(answer.logger).log(answer.level, "%s", answer.message)
            elif isinstance(answer, Refusal):
                raise BuildError(answer.message)
            else:
                return answer

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._printed = tempfile.TemporaryFile()  # noqa: SIM115  # until __exit__
            # What this process imports, and from where, the child does too.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                env=environment,
            )
        return self._process

    def _epitaph(self, component: str, precision: Precision) -> str:
        """Say how the child ended."""
        assert self._process is not None
        code = self._process.wait()
        library = f"{self._library.__name__} {library_version(self._library)}"
        last = self._last_line()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        advice = "report this with the model's configuration, and build the component in another precision meanwhile"
        if -code == signal.SIGKILL:
            advice = "the system does so when memory runs out: give it more, or a smaller --max-batch"
        return f"{library} {how} while it built {component} in {precision}{f' ({last})' if last else ''}; {advice}."

    def _last_line(self) -> str:
        """Return the last line that the child printed outside of its answers; all of it goes to the log."""
        assert self._printed is not None
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").strip().splitlines()
        for line in lines:
            log.debug("%s: %s", self._library.__name__, line)
        return lines[-1].strip().rstrip(".") if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
