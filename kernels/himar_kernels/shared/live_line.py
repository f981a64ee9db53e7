"""Shows progress on one line that nothing breaks: what libraries write to stderr meanwhile appears above it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_STDERR = 2
_PATIENCE = 1.0
"""Seconds to wait for the last lines; a child process that outlives the display may hold the pipe open."""


@contextmanager
def live_line(progress: Progress) -> Iterator[None]:
    """Draw a progress display while the context lasts.

    Rich lays Python's own stderr above the display. Libraries in C (ONNX Runtime, PyTorch, image decoders) write past
    it to the process's stderr, so on a terminal that is a pipe meanwhile, whose lines are printed in the same way.
    """
    console = progress.console
    if progress.disable or not console.is_terminal or not _is_own_stderr(console):
        with progress:
            yield
        return
    console.width = console.size.width  # Rich would ask stderr for it, which is a pipe then.
    terminal = os.fdopen(os.dup(_STDERR), "w", encoding=console.encoding, errors="replace")
    before = console.file
    before.flush()
    console.file, printer = terminal, None
    try:
        with progress:
            printer = _print_stderr(console)
            try:
                yield
            finally:  # While the display is there: what it leaves behind it would wipe out a line that comes late.
                before.flush()
                os.dup2(terminal.fileno(), _STDERR)
                printer.join(_PATIENCE)
    finally:
        if printer is None or not printer.is_alive():
            console.file = before
            terminal.close()


def _print_stderr(console: Console) -> Thread:
    """Make the process's stderr a pipe whose lines a thread prints, until nothing has the pipe open."""
    reading, writing = os.pipe()
    os.dup2(writing, _STDERR)
    os.close(writing)
    lines = os.fdopen(reading, encoding="utf-8", errors="replace")
    printer = Thread(target=_print_lines, args=(lines, console), daemon=True)
    printer.start()
    return printer


def _is_own_stderr(console: Console) -> bool:
    """Whether the console writes to this process's stderr: tests and notebooks put something else in its place."""
    try:
        return console.file is sys.stderr and console.file.fileno() == _STDERR
    except (OSError, ValueError, AttributeError):
        return False


def _print_lines(lines: IO[str], console: Console) -> None:
    with lines:
        for line in lines:
            console.print(line.rstrip("\r\n"), markup=False, highlight=False, soft_wrap=True)
