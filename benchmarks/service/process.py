"""Starts a himar-serve process and reads its memory and metrics from outside."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

PYTHON = (sys.executable, "-c", "import sys; from himar_runtime.service.cli import main; sys.exit(main())")
_BENCH = (sys.executable, "-c", "import sys; from himar_runtime.bench_server.cli import main; sys.exit(main())")


@contextmanager
def serving(command: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run a server that says where it listens; yield its address and process id, and end it."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1], server.pid
    finally:
        server.terminate()
        server.wait()


def bench(url: str, *options: object) -> dict[str, Any]:
    """Return the report of himar-bench-server; ClickException when requests failed."""
    done = subprocess.run([*_BENCH, url, "--json", *map(str, options)], stdout=subprocess.PIPE, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    if report["failures"]:
        raise click.ClickException(f"requests failed: {report['reasons']}.")
    return report


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: asyncio.subprocess.Process
    url: str

    def megabytes(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(status.partition("VmRSS:")[2].split()[0]) / 1024


@asynccontextmanager
async def running(command: tuple[str, ...], log: Path) -> AsyncIterator[Server]:
    """Start the server; kill it if it still runs in the end."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=stderr)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        if "listening on " not in line:
            raise click.ClickException(f"the server did not start: {log.read_text()}")
        yield Server(process, line.split()[-1])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def metrics(url: str) -> dict[str, float]:
    """Return the samples that have at most one label, by name and that label's value."""
    async with aiohttp.ClientSession(url) as session, session.get("/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in families for sample in family.samples if len(sample.labels) < 2
        }  # fmt: skip


def memory_growth(memory: list[tuple[float, float]]) -> dict[str, float]:
    """Return the median memory of each fifth of the run in MB, and last over second."""
    fifths = [float(np.median(part)) for part in np.array_split([megabytes for _, megabytes in memory], 5) if len(part)]
    result = {f"fifth {number}": round(each, 1) for number, each in enumerate(fifths, 1)}
    return {**result, "growth": round(fifths[-1] / fifths[min(1, len(fifths) - 1)], 4)}
