"""Runs a piece of an hour on a GPU in a process of its own: a crash, a hang or a broken GPU ends that piece alone.

The process is this module, called with the record, the piece, the measurement by name, its arguments as JSON, and the
time at which it has to end.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import Record, read_record, unfinished
from benchmarks.gpu.within import run_within
from himar_kernels import InputError

ROOT = Path(__file__).parents[2]
MEASUREMENTS: Mapping[str, str] = {
    "peaks": "benchmarks.gpu.calls",
    "calls": "benchmarks.gpu.calls",
    "rows": "benchmarks.gpu.calls",
    "heads": "benchmarks.gpu.calls",
    "self_test": "benchmarks.gpu.generations",
    "generation": "benchmarks.gpu.generations",
    "memory": "benchmarks.gpu.generations",
    "found_tests": "benchmarks.gpu.suites",
    "tests": "benchmarks.gpu.suites",
    "cpp_tests": "benchmarks.gpu.suites",
    "cpp_bench": "benchmarks.gpu.cpp_bench",
}
"""Where the functions lie that measure: `function(figures, **arguments)`."""


class Figures:
    """What a piece has measured, and where it keeps more; `until`, in seconds since 1970, it has to end."""

    def __init__(self, record: Record, piece: str, until: float) -> None:
        self._record, self._piece, self._until = record, piece, until

    def lacks(self, name: str) -> bool:
        """Whether a figure is still to be measured: it is not there, or only its beginning is."""
        found = self._record.figures(self._piece)
        return name not in found or unfinished(found[name])

    def keep(self, name: str, value: Any) -> None:
        """Write a figure to the record, and say it."""
        self._record.keep(self._piece, name, value)
        sys.stdout.write(f"{name}: {json.dumps(value)}\n")
        sys.stdout.flush()

    def keep_same(self, name: str, value: str) -> None:
        """Keep what all figures of the piece are of; InputError where those there are of another."""
        before = self._record.figures(self._piece).get(name, value)
        if before != value:
            raise InputError(
                f"the figures of {self._piece!r} are of another {name}, {before}, not {value}; measure the piece again "
                f"with --again, or choose another --out."
            )
        self.keep(name, value)

    def seconds_left(self) -> float:
        """Return how long the piece may still work."""
        return self._until - time.time()


@dataclass(frozen=True)
class Piece:
    """A piece: what measures it (`MEASUREMENTS`), with which arguments, and variables of its process beside this one's.

    needs: files and folders, each with what makes it.
    """

    name: str
    measurement: str
    arguments: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[tuple[Path, str], ...] = ()

    def missing(self) -> str | None:
        """Return what this piece needs and is not here, and what makes it; None where all is."""
        return next((f"{path} is not here; {how}" for path, how in self.needs if not path.exists()), None)


def run_piece(record: Record, given: Piece, seconds: float, whole: bool) -> None:
    """Run a piece for at most `seconds`; its end, or why it did not get there, is in the record.

    whole: it has all of a call's minutes, so that one without a new figure will never have one.
    """
    piece = given.name
    before, begin = _measured(record, piece), time.monotonic()
    record.begin(piece)
    log = log_of(record.path, piece)
    command = [sys.executable, "-m", "benchmarks.gpu.process", str(record.path), piece, given.measurement,
               json.dumps(given.arguments), str(time.time() + seconds)]  # fmt: skip
    outcome = run_within(command, log, seconds, ROOT, given.environment)
    record.reread()
    took = time.monotonic() - begin
    stopped = "too long" if whole and _measured(record, piece) <= before else "cut off"
    if outcome["exit_code"] == 0:
        cut = any(unfinished(each) for each in record.figures(piece).values())
        state = stopped if cut or record.state(piece) == "cut off" else "done"
        record.end(piece, state, seconds=took)
        return
    reason = f"{log}: {last_line(log)}"
    if outcome["exit_code"] is not None:
        record.end(piece, "failed", f"{_how(outcome['exit_code'])}; {reason}", took)
        return
    record.end(piece, stopped, f"stopped after {outcome['stopped_after']} s; {reason}", took)


def log_of(record: Path, piece: str) -> Path:
    """Return where a piece's output goes: beside the record, in the folder of its name."""
    folder = record.with_suffix(".logs")
    folder.mkdir(parents=True, exist_ok=True)
    plain = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in piece)
    return folder / f"{plain}.log"


def last_line(log: Path) -> str:
    """Return the last line of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it printed nothing"


def _measured(record: Record, piece: str) -> set[str]:
    """Return the names of a piece's whole figures; what it only says of all of them is none."""
    return {name for name, value in record.figures(piece).items() if not (isinstance(value, str) or unfinished(value))}


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def main(path: str, piece: str, measurement: str, arguments: str, until: str) -> None:
    """Measure one piece."""
    record = Record(Path(path), read_record(Path(path))["asked"])
    figures = Figures(record, piece, float(until))
    measure: Callable[..., bool | None] = getattr(import_module(MEASUREMENTS[measurement]), measurement)
    if measure(figures, **json.loads(arguments)) is False:  # it left something out, because its time was up
        record.end(piece, "cut off")


if __name__ == "__main__":
    main(*sys.argv[1:])
