"""Runs the tests that need a GPU within a time, so that a report that is cut off keeps the rest of its minutes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_NOT_HERE = ("--deselect", "tests/benchmarks/test_gpu_report.py")
"""A report does not make reports."""

_GRACE = 10.0
"""Seconds that a run has to end by itself after an interrupt; pytest uses them to say what has passed."""


def gpu_tests(log: Path, seconds: float) -> dict[str, Any]:
    """Run `pytest -m gpu` for at most `seconds`; return its last line, what did not pass, and its exit code.

    The whole output goes to `log` as it comes. A run that the time cut off has "stopped_after".
    """
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", *_NOT_HERE]
    outcome = run_within(command, log, seconds, Path(__file__).parents[2])
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    # The summary gives reasons; a run that was killed has none, but a line for each test that ended.
    ended = [line for line in lines if re.search(r"::.* (FAILED|ERROR|SKIPPED)\b", line)]
    summary = [line for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    passed = sum(bool(re.search(r"::.* PASSED\b", line)) for line in lines)
    return {**outcome, "summary": lines[-1] if lines else "", "passed": passed, "not_passed": summary or ended}


def run_within(command: Sequence[str], log: Path, seconds: float, folder: Path) -> dict[str, Any]:
    """Run a command in `folder` for at most `seconds`, its output in `log`; return its exit code.

    A command that takes longer is interrupted as Ctrl-C does, then killed with all that it started; its entry has
    "stopped_after" in seconds.
    """
    begin = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )
        try:
            return {"exit_code": process.wait(max(0.0, seconds))}
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            return {"exit_code": None, "stopped_after": round(time.monotonic() - begin, 1)}
        finally:
            _end_group(process)


def _heed_interrupts() -> None:
    """Undo what a shell does to a program in the background, which would ignore Ctrl-C and hand that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process's own session: tests start processes of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
