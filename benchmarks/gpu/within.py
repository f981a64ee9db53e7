"""Runs a command for at most a given time, and leaves nothing of it behind: what is cut off costs no other its time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_GRACE = 10.0
"""Seconds that a run has to end by itself after an interrupt; pytest uses them to say what has passed."""


def run_within(
    command: Sequence[str], log: Path, seconds: float, folder: Path, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a command in `folder` for at most `seconds`, its output in `log`; return its exit code.

    environment: variables beside this process's.

    A command that takes longer is interrupted as Ctrl-C does, then killed with all that it started; its entry has
    "stopped_after" in seconds.
    """
    begin = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
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
