"""Measures what it takes to load a bundle on the CPU, and what a second process of it adds to the memory in use.

    python -m benchmarks.load demo/digits
    python -m benchmarks.load b --request '{"low_steps": 1, "high_steps": 1}' --repeats 5

A process loads the bundle and makes an image on every lane; then a second one does so beside it. They do so as himar
does by itself, and with weights that are kept packed (HIMAR_ORT_PACKED=1), which another process packed into an empty
folder. Both ways take turns; figures are medians. Latents of all processes must be equal bit for bit. The bundle's
files are read once before, so that all find them in the system's cache. Memory is that after freed memory was given
back to the system (malloc_trim); "USS of it" is what loading alone adds, before there are any activations.

    python -m benchmarks.load demo/digits --server build/cpp/release/service/himar-serve

At last, an himar-serve of C++ starts beside a Python process, both with packed weights, and answers a request.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
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


def cpu_seconds(process: int) -> float:
    """Return what a process has used of the CPU, as Linux counts it."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Loaded:
    """A process that has loaded a bundle and made an image; it lives until it is closed."""

    def __init__(self, bundle: Path, request: str, threads: int, lanes: int, packed: bool, cache: str) -> None:
        environment = {**os.environ, VARIABLE: str(int(packed)), "XDG_CACHE_HOME": cache}
        command = [sys.executable, "-m", "benchmarks.load", "--child", str(bundle)]
        command += ["--request", request, "--threads", str(threads), "--lanes", str(lanes)]
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


class Served:
    """The C++ runtime's himar-serve, whose load is its start, after a request; it lives until it is closed."""

    def __init__(self, server: Path, bundle: Path, request: str, threads: int, lanes: int, cache: str) -> None:
        environment = {**os.environ, VARIABLE: "1", "XDG_CACHE_HOME": cache}
        command = [str(server), str(bundle), "--port", "0", "--threads", str(threads), "--lanes", str(lanes)]
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, "--timeout", "3600"], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"{server} ended with code {self._process.wait()}.")
        ready = time.perf_counter()
        body = json.dumps({"labels": [0], "seed": 7, "output": "latents", **json.loads(request)}).encode()
        used = cpu_seconds(self._process.pid)
        asked = urllib.request.Request(line.split()[-1] + "/v1/images", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked) as answer:
            answer.read()
        self.said = {
            "seconds": ready - start,
            "hashing": math.nan,
            "loaded": math.nan,
            "cpu_seconds": used,
            "request_seconds": time.perf_counter() - ready,
        }

    @property
    def memory(self) -> Memory:
        """What it has in memory now."""
        return memory(self._process.pid)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()


def give_back() -> None:
    """Give freed memory back to the system."""
    ctypes.CDLL(None).malloc_trim(0)


def load(bundle: Path, request: dict[str, Any], threads: int, lanes: int) -> None:
    """Load a bundle, make an image of class 0 on each lane, print what was seen as JSON, wait for the input's end."""
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
    give_back()
    loaded = memory(os.getpid()).own - before.own
    start = time.perf_counter()
    latents = pipeline.generate([0], seed=7, **request).latents
    request_seconds = time.perf_counter() - start
    others = [pipeline.clone() for _ in range(lanes - 1)]
    for lane in others:
        assert (lane.generate([0], seed=7, **request).latents == latents).all()
    give_back()
    facts = {
        "seconds": seconds,
        "hashing": hashed,
        "cpu_seconds": used,
        "request_seconds": request_seconds,
        "before": before.part,
        "loaded": loaded,
        "latents": hashlib.sha256(latents.tobytes()).hexdigest(),
    }
    click.echo(json.dumps(facts))
    sys.stdin.read()


def measure(
    bundle: Path, request: str, threads: int, lanes: int, repeats: int, server: Path | None
) -> list[dict[str, Any]]:
    """Return a row per process: those of both ways in turns, `repeats` times; the one that packs and a server once."""
    rows: list[dict[str, Any]] = []

    def row(name: str, process: Loaded | Served, added: int, now: Memory) -> None:
        rows.append({"process": name, **process.said, "own": now.own, "part": now.part, "added": added})

    for file in bundle.iterdir():
        file.read_bytes()
    with tempfile.TemporaryDirectory() as cache:
        packing = Loaded(bundle, request, threads, lanes, True, cache)
        row("packs", packing, packing.memory.part - packing.said["before"], packing.memory)
        packing.close()
        rows[0]["disk"] = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
        for packed in (False, True) * repeats:
            way = "packed" if packed else "as by itself"
            with closing(Loaded(bundle, request, threads, lanes, packed, cache)) as first:
                alone = first.memory
                row(f"{way}, first", first, alone.part - first.said["before"], alone)
                with closing(Loaded(bundle, request, threads, lanes, packed, cache)) as second:
                    both = second.memory
                    added = first.memory.part + both.part - alone.part - second.said["before"]
                    row(f"{way}, second", second, added, both)
        if server is not None:
            with closing(Loaded(bundle, request, threads, lanes, True, cache)) as first:
                alone = first.memory
                with closing(Served(server, bundle, request, threads, lanes, cache)) as served:
                    both = served.memory
                    row("packed, C++ server second", served, first.memory.part + both.part - alone.part, both)
    return rows


def medians(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the medians of each process's figures."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["process"] for row in rows):
        of_one = [row for row in rows if row["process"] == name]
        found[name] = {
            figure: statistics.median(row[figure] for row in of_one)
            for figure, value in of_one[0].items()
            if not isinstance(value, str)
        }
    return found


def ratios(rows: list[dict[str, Any]]) -> str:
    """Return the sentence that sums up what packed weights save: medians of the ratios of turns."""
    turns = {name: [row for row in rows if row["process"] == name] for name in {row["process"] for row in rows}}
    pairs = [
        pair
        for place in ("first", "second")
        for pair in zip(turns[f"as by itself, {place}"], turns[f"packed, {place}"], strict=True)
    ]
    wall, cpu = (
        statistics.median(packed[figure] / by_itself[figure] for by_itself, packed in pairs)
        for figure in ("seconds", "cpu_seconds")
    )
    beside = [statistics.median(row["added"] for row in turns[f"packed, {place}"]) for place in ("first", "second")]
    return (
        f"a packed load takes {wall:.2f} of the seconds of one as by itself, {cpu:.2f} of the CPU's; "
        f"its second process adds {beside[1] / beside[0]:.1%} of what the first does"
    )


def _shown(number: float, digits: int = 2) -> str:
    return "–" if math.isnan(number) else f"{number:,.{digits}f}"


@click.command(epilog="Example: python -m benchmarks.load demo/digits --threads 2")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--request", default="{}", help="What an image is made with, as JSON: arguments of Pipeline.generate.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--lanes", default=1, show_default=True, type=click.IntRange(1), help="Of each process.")
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(1), help="Turns of both ways.")
@click.option(
    "--server", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The C++ runtime's himar-serve."
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--child", is_flag=True, hidden=True)
def main(
    bundle: Path, request: str, threads: int, lanes: int, repeats: int, server: Path | None, as_json: bool, child: bool
) -> None:
    """Load BUNDLE in one process and two, as by itself and with weights kept packed; compare time, memory and bits."""
    if child:
        load(bundle, json.loads(request), threads, lanes)
        return
    rows = measure(bundle, request, threads, lanes, repeats, server)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        click.echo("| process | load, s | of it hashing | CPU, s | USS of it, MiB | image, s | USS, MiB | PSS | adds |")
        click.echo("|" + "---|" * 9)
        for name, row in medians(rows).items():
            times = " | ".join(_shown(row[figure]) for figure in ("seconds", "hashing", "cpu_seconds"))
            sizes = " | ".join(_shown(row[figure] / MIB, 0) for figure in ("own", "part", "added"))
            click.echo(
                f"| {name} | {times} | {_shown(row['loaded'] / MIB, 0)} | {_shown(row['request_seconds'])} | {sizes} |"
            )
        files = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
        click.echo(f"\nkept on disk: {rows[0]['disk'] / MIB:,.0f} MiB, of a bundle of {files / MIB:,.0f} MiB")
        click.echo(ratios(rows))
    if len({row["latents"] for row in rows if "latents" in row}) != 1:
        raise click.ClickException("the latents of the processes differ.")


if __name__ == "__main__":
    main()
