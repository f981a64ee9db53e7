"""Prints the memory that is predicted of bundles beside what loading and generating takes in a new process.

    python -m benchmarks.memory BUNDLE ... [--batch N ...] [--lanes L ...] [--set NAME=VALUE ...] [--json]

The predicted bytes are those of `himar-export inspect --memory`; the measured ones are the peak of a process that
loads the bundle and generates twice in every lane, less the base: what a process holds with its libraries alone. Runs
on Linux and a CPU. Exits 1 where a prediction is more than 15 % off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from himar_runtime import Bundle
from himar_runtime.memory.prediction import predict

WITHIN = 0.15


@dataclass(frozen=True)
class Compared:
    """Bytes of the process with its libraries, of loading and generating beyond them, and predicted of that."""

    bundle: str
    batch: int
    lanes: int
    base: int
    measured: int
    predicted: int

    @property
    def ratio(self) -> float:
        """Predicted by measured."""
        return self.predicted / self.measured

    @property
    def off(self) -> bool:
        """Whether the prediction missed by more than WITHIN."""
        return abs(self.ratio - 1) > WITHIN


def compare(path: Path, batch: int, lanes: int, changes: Mapping[str, Any]) -> Compared:
    """Measure one bundle at one batch. Raises SystemExit with a process's last words where it fails."""
    base = _child({"bundle": str(path)})
    peak = _child({"bundle": str(path), "images": batch, "lanes": lanes, "changes": dict(changes)})
    predicted = predict(Bundle.open(path).manifest, batch, lanes).total
    return Compared(path.name, batch, lanes, base, peak - base, predicted)


def table(rows: Sequence[Compared]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| bundle | batch | lanes | libraries | measured beyond them | predicted | predicted by measured | of all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sizes = " | ".join(f"{size / 1e6:.1f} MB" for size in (row.base, row.measured, row.predicted))
        whole = (row.base + row.predicted) / (row.base + row.measured)
        lines.append(f"| {row.bundle} | {row.batch} | {row.lanes} | {sizes} | {row.ratio:.2f} | {whole:.2f} |")
    return "\n".join(lines)


def setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, its value as JSON; ArgumentTypeError for anything else."""
    name, separator, value = text.partition("=")
    try:
        return name, json.loads(value if separator else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with a number") from None


def _child(asked: Mapping[str, Any]) -> int:
    command = [sys.executable, "-m", "benchmarks.memory.child", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SystemExit(f"the process that loads {asked['bundle']} failed: {last}")
    return int(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every bundle at every batch and number of lanes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--batch", type=int, action="append", help="images at once; default: 1 and 8")
    parser.add_argument("--lanes", type=int, action="append", help="default: 1")
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="of sampling")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    rows = [
        compare(path, batch, lanes, dict(arguments.set))
        for path in arguments.bundles
        for lanes in arguments.lanes or [1]
        for batch in arguments.batch or [1, 8]
    ]
    if arguments.json:
        text = json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1)
    else:
        text = table(rows)
    sys.stdout.write(f"{text}\n")
    return 1 if any(row.off for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
