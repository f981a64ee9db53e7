"""Compares the C++ and the Python runtime on one bundle: compare_with_python.py HIMAR_GENERATE BUNDLE [THREADS].

Prints the median seconds of a request, start-up (loading the bundle; for the process also until then), peak memory and,
for C++, the share of time outside the engines. Every figure is from a process of its own; the two take turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

BATCHES, ROUNDS, RUNS = (1, 16), 3, 5

_PYTHON = """
import json, resource, statistics, sys, time
from himar_runtime import Pipeline
start = time.perf_counter()
pipeline = Pipeline.load(sys.argv[1], threads=int(sys.argv[2]))
loaded = time.perf_counter() - start
runs = []
for run in range(int(sys.argv[4])):
    start = time.perf_counter()
    pipeline.generate([i % 10 for i in range(int(sys.argv[3]))], seed=7)
    runs.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"p50_s": statistics.median(runs), "start_up_s": loaded, "peak_mb": peak}))
"""


def measure(command: list[str]) -> dict[str, Any]:
    """Run a command that prints its figures as one line of JSON; the whole process's seconds join them."""
    start = time.perf_counter()
    figures: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures | {"process_s": time.perf_counter() - start}


def compare(program: str, bundle: str, threads: str) -> None:
    """Print a line per batch size and runtime."""
    sys.stdout.write(f"{'':18}request s   load s   process s, one request   peak MB   outside the engines\n")
    for batch in BATCHES:
        labels = ",".join(str(i % 10) for i in range(batch))
        commands = {
            "C++": [program, bundle, "--labels", labels, "--seed", "7", "--threads", threads, "--json", "--repeat"],
            "Python": [sys.executable, "-c", _PYTHON, bundle, threads, str(batch)],
        }
        many: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
        one: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                many[name].append(measure([*command, str(RUNS)]))
                one[name].append(measure([*command, "1"]))
        for name in commands:
            values = {key: statistics.median(figures[key] for figures in many[name]) for key in many[name][0]}
            whole = statistics.median(figures["process_s"] for figures in one[name])
            outside = f"{100 * values['outside_engines']:.2f} %" if "outside_engines" in values else "not measured"
            sys.stdout.write(
                f"{name:7}batch {batch:<4} {values['p50_s']:9.3f} {values['start_up_s']:8.3f} {whole:15.2f} "
                f"{values['peak_mb']:17.0f}   {outside}\n"
            )


if __name__ == "__main__":
    compare(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "2")
