"""Remembers that SIGINT or SIGTERM came, also where a library drops the KeyboardInterrupt which that raises.

Python raises it in whatever runs just then, and what is raised in a callback from C or in a finaliser goes no further.
So a command also asks at its steps (`check_interruption`), and `run_cli` at its end.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_came = threading.Event()


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt, and remember them, while the context lasts.

    Python prints no traceback of one that it has to drop.

    A signal that is ignored stays so: a shell starts background jobs that Ctrl-C must not end. A program's main thread
    alone is sent signals; in another one this changes nothing.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    outermost = _interrupt not in before.values()
    said = sys.unraisablehook

    def say(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            said(dropped)

    sys.unraisablehook = say
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        sys.unraisablehook = said
        if outermost:
            _came.clear()


def interrupted() -> bool:
    """Return whether a signal came since the command began, or since `forget_interruption`."""
    return _came.is_set()


def check_interruption() -> None:
    """Raise KeyboardInterrupt if a signal came. Steps that run in another thread than the main one go on."""
    if interrupted() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def forget_interruption() -> None:
    """Say that the signal has been dealt with, and is no reason to end with a failure."""
    _came.clear()


def _interrupt(number: int, frame: Any) -> None:
    _came.set()
    raise KeyboardInterrupt
