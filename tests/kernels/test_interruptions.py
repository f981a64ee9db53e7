"""SIGINT and SIGTERM end a command with 130, also where a library drops the KeyboardInterrupt that they raise."""

import contextlib
import importlib.abc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import click
import pytest

from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.interruptions import (
    check_interruption,
    forget_interruption,
    interrupted,
    signals_interrupt,
)
from himar_runtime.engines.ort.session import onnxruntime

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
SAID = "interrupted; nothing half-made was left behind.\n"


def drop(number: signal.Signals) -> None:
    """As Ray does with what its callbacks raise."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(number)


def run(body: Callable[[], None]) -> int:
    """With the handlers of a person's terminal, whatever started this process."""
    with contextlib.ExitStack() as stack:
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            stack.callback(signal.signal, number, signal.signal(number, handler))
        code = run_cli(click.command()(body), [])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not interrupted()
    return code


@SIGNALS
def test_a_dropped_signal_ends_the_command_at_its_next_step(capsys, number):
    steps = []

    def body() -> None:
        for step in range(5):
            check_interruption()
            steps.append(step)
            if step == 2:
                drop(number)

    assert run(body) == 130
    assert steps == [0, 1, 2]
    assert capsys.readouterr().err == f"\n{SAID}"  # below a terminal's ^C


@SIGNALS
def test_a_dropped_signal_counts_at_the_end_of_a_command_without_steps(capsys, number):
    assert run(lambda: drop(number)) == 130
    assert capsys.readouterr().err == SAID


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@SIGNALS
def test_a_signal_in_a_finaliser_counts(capsys, number):
    """Python itself prints and drops what is raised there."""

    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def body() -> None:
        Finalised()

    assert run(body) == 130
    assert SAID in capsys.readouterr().err


def test_an_error_that_follows_a_dropped_signal_is_told_too(capsys):
    def body() -> None:
        drop(signal.SIGINT)
        raise InputError("a worker failed.")

    assert run(body) == 130
    assert capsys.readouterr().err == f"error: a worker failed.\n{SAID}"


def test_a_signal_that_was_dealt_with_is_no_failure():
    def body() -> None:
        drop(signal.SIGTERM)
        forget_interruption()

    assert run(body) == 0


def test_a_command_within_a_command_leaves_the_signal_to_both():
    codes = []

    def body() -> None:
        codes.append(run_cli(click.command()(lambda: drop(signal.SIGINT)), []))

    assert run(body) == 130
    assert codes == [130]


def test_steps_of_other_threads_go_on():
    ended = []

    def body() -> None:
        drop(signal.SIGINT)
        thread = threading.Thread(target=lambda: ended.append(check_interruption()))
        thread.start()
        thread.join()

    assert run(body) == 130
    assert ended == [None]


def test_an_ignored_signal_stays_ignored():
    """A shell starts background jobs that way."""
    code = "import signal, os, click, himar_kernels.shared.console as c, sys\n@click.command()\n"
    code += "def f():\n    os.kill(os.getpid(), signal.SIGINT)\n    print('went on')\n"
    done = subprocess.run(
        ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-c", f"{code}sys.exit(c.run_cli(f, []))"],
        env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_outside_of_commands_nothing_is_remembered():
    with signals_interrupt():
        drop(signal.SIGTERM)
        assert interrupted()
    assert not interrupted()
    check_interruption()


@SIGNALS
def test_an_import_that_a_signal_ends_is_not_told_as_a_missing_library(capsys, monkeypatch, number):
    """Libraries in C turn the KeyboardInterrupt into an ImportError."""

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "onnxruntime":
                drop(number)
                raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert run(onnxruntime) == 130
    assert capsys.readouterr().err == f"\n{SAID}"


@SIGNALS
def test_a_signal_in_a_finaliser_prints_no_traceback(capsys, number):
    class Thing:
        pass

    def body() -> None:
        thing = Thing()
        watched = weakref.ref(thing, lambda _: signal.raise_signal(number))
        del thing
        assert watched() is None

    assert run(body) == 130
    assert capsys.readouterr().err == SAID
