"""Ends both commands alike: errors as plain sentences, exit codes, Ctrl-C. Imports click only when a command runs."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .errors import HimarError
from .interruptions import interrupted, signals_interrupt

if TYPE_CHECKING:
    import click

FAILURE, WRONG_USAGE, INTERRUPTED = 1, 2, 130

NOTICES = logging.getLogger("himar.notices")
"""What a library call has to tell a user, such as a choice that it made; a command prints it on stderr."""


class _Printed(logging.Handler):
    """Prints a record as it is, through whatever stderr is at that moment: a progress line may stand on it."""

    def emit(self, record: logging.LogRecord) -> None:
        import click

        click.echo(record.getMessage(), err=True)


def run_cli(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Run a click command and return its exit code.

    0 is success only; wrong usage is 2, any other failure 1, an interruption 130. Errors print as one or two lines on
    stderr; `--debug` anywhere on the command line lets the traceback through instead. SIGTERM ends a command as
    Ctrl-C does, so that temporary files are cleaned up; both count also where a library dropped the KeyboardInterrupt.
    """

    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal lacks, or a name that is not UTF-8, must not lose what was computed.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    printed = _Printed(logging.INFO)
    NOTICES.addHandler(printed)
    NOTICES.setLevel(logging.INFO)
    try:
        with signals_interrupt():
            code = _run(command, arguments, debug)
            if interrupted() and code != INTERRUPTED:
                return _say_interrupted()
            return code
    finally:
        NOTICES.removeHandler(printed)


def _run(command: click.Command, arguments: list[str], debug: bool) -> int:
    """Run a click command; print what ends it and return the exit code."""
    import click

    try:
        code = command.main(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show()
        return WRONG_USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say_interrupted()
    except HimarError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        return FAILURE
    except BrokenPipeError:
        # Who read the output has gone, as `head` does; Python must not fail again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {place}{error.strerror or error}; check the path and its permissions.", err=True)
        return FAILURE
    except Exception as error:
        if debug:
            raise
        if _is_out_of_memory(error):
            click.echo("error: there is not enough memory; ask for less at once, or take a smaller model.", err=True)
            return FAILURE
        click.echo(
            f"error: unexpected {type(error).__name__}: {error}\nrun again with --debug and report what it prints.",
            err=True,
        )
        return FAILURE


def _say_interrupted() -> int:
    import click

    click.echo("interrupted; nothing half-made was left behind.", err=True)
    return INTERRUPTED


def require_extra(extra: str, *modules: str) -> None:
    """Raise click's error, naming what to install, unless every module can be imported."""
    import click

    for module in modules:
        if find_spec(module) is None:
            raise click.ClickException(
                f"this command needs {module}, which is not installed: pip install 'himar[{extra}]'."
            )


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own, NumPy's and PyTorch's, which on the CPU is a plain RuntimeError."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)
