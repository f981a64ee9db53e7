"""Measures what it takes to load a bundle on the CPU, and what a second process of it adds to the memory in use.

    python -m benchmarks.load demo/digits
    python -m benchmarks.load b --request '{"low_steps": 1, "high_steps": 1}'

A process loads the bundle and makes an image; then a second one does so beside it. First as himar does by itself; then
with weights that are kept packed (HIMAR_ORT_PACKED=1): one process that packs them into an empty folder, and two that
find them there. Latents of all five must be equal bit for bit. The bundle's files are read once before, so that all
find them in the system's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from himar_runtime.engines.ort.packed import VARIABLE

MIB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """Bytes that a process alone has in memory, and with its part of what it shares (USS, PSS)."""

    own: int
    part: int


def memory(process: int) -> Memory:
    """Return the memory of a process, as Linux counts it."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(value.split()[0]) for name, value in (line.split(":", 1) for line in lines)}
    return Memory((kib["Private_Clean"] + kib["Private_Dirty"]) << 10, kib["Pss"] << 10)


class Loaded:
    """A process that has loaded a bundle and made an image; it lives until it is closed."""

    def __init__(self, bundle: Path, request: str, threads: int, packed: bool, cache: str) -> None:
        environment = {**os.environ, VARIABLE: str(int(packed)), "XDG_CACHE_HOME": cache}
        command = [sys.executable, "-m", "benchmarks.load", "--child", str(bundle)]
        command += ["--request", request, "--threads", str(threads)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"a process that loads {bundle} ended with code {self._process.wait()}.")
        self.said: dict[str, Any] = json.loads(line)

    @property
    def memory(self) -> Memory:
        """What it has in memory now."""
        return memory(self._process.pid)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def load(bundle: Path, request: dict[str, Any], threads: int) -> None:
    """Load a bundle, make an image of class 0, print what was seen as JSON and wait for the end of the input."""
    from himar_runtime import Device, Pipeline, load_networks
    from himar_runtime.engines.networks import open_bundle
    from himar_runtime.engines.ort.session import onnxruntime

    onnxruntime()
    before = memory(os.getpid())
    start, used = time.perf_counter(), time.process_time()
    opened = open_bundle(bundle, Device("cpu"))
    hashed = time.perf_counter() - start
    pipeline = Pipeline(opened, load_networks(opened, Device("cpu"), threads))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    start = time.perf_counter()
    latents = pipeline.generate([0], seed=7, **request).latents
    facts = {
        "seconds": seconds,
        "hashing": hashed,
        "cpu_seconds": used,
        "request_seconds": time.perf_counter() - start,
        "before": before.part,
        "latents": hashlib.sha256(latents.tobytes()).hexdigest(),
    }
    click.echo(json.dumps(facts))
    sys.stdin.read()


def measure(bundle: Path, request: str, threads: int) -> list[dict[str, Any]]:
    """Return a row per process, in the order of the module's text."""
    rows = []

    def row(name: str, process: Loaded, added: int, now: Memory) -> None:
        rows.append({"process": name, **process.said, "own": now.own, "part": now.part, "added": added})

    with tempfile.TemporaryDirectory() as cache:
        for file in bundle.iterdir():
            file.read_bytes()
        for packed in (False, True):
            way = "packed" if packed else "as by itself"
            if packed:
                packing = Loaded(bundle, request, threads, packed, cache)
                row("packs", packing, packing.memory.part - packing.said["before"], packing.memory)
                packing.close()
                kept = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
                rows[-1]["disk"] = kept
            first = Loaded(bundle, request, threads, packed, cache)
            alone = first.memory
            row(f"{way}, first", first, alone.part - first.said["before"], alone)
            second = Loaded(bundle, request, threads, packed, cache)
            both = second.memory
            row(f"{way}, second", second, first.memory.part + both.part - alone.part - second.said["before"], both)
            first.close()
            second.close()
    return rows


@click.command(epilog="Example: python -m benchmarks.load demo/digits --threads 2")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--request", default="{}", help="What an image is made with, as JSON: arguments of Pipeline.generate.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--child", is_flag=True, hidden=True)
def main(bundle: Path, request: str, threads: int, as_json: bool, child: bool) -> None:
    """Load BUNDLE in one process and two, as by itself and with weights kept packed; compare time, memory and bits."""
    if child:
        load(bundle, json.loads(request), threads)
        return
    rows = measure(bundle, request, threads)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        click.echo("| process | load, s | of it hashing | CPU, s | image, s | USS, MiB | PSS | adds to memory in use |")
        click.echo("|" + "---|" * 8)
        for row in rows:
            sizes = " | ".join(f"{row[name] / MIB:,.0f}" for name in ("own", "part", "added"))
            times = " | ".join(f"{row[name]:.2f}" for name in ("seconds", "hashing", "cpu_seconds", "request_seconds"))
            click.echo(f"| {row['process']} | {times} | {sizes} |")
        disk = next(row["disk"] for row in rows if "disk" in row)
        click.echo(f"\nkept on disk: {disk / MIB:,.0f} MiB")
    if len({row["latents"] for row in rows}) != 1:
        raise click.ClickException("the latents of the processes differ.")


if __name__ == "__main__":
    main()
