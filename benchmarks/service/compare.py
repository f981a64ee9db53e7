"""Measures this checkout's service, in Python or C++, against another's, in turns, with himar-bench-server.

    git worktree add ../before 5cb9277                                  # the last commit whose requests ran alone
    python -m benchmarks.service.compare demo/digits ../before
    python -m benchmarks.service.compare demo/digits ../before --sampling fast --requests 240
    python -m benchmarks.service.compare demo/digits ../before --cpp    # both after `make cpp`

Both serve the same bundle with the same options; clients are on the same machine. Then a single client is measured.
Figures are medians over the turns, and ratios are those of this checkout by the other.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.load import cpu_seconds
from benchmarks.service.process import bench, serving

ROOT = Path(__file__).parents[2]
_ROOMS = ("kernels", "runtime")
_SERVE = "import sys; sys.path[:0] = sys.argv[1].split(':'); from himar_runtime.service.cli import main; "


def program(checkout: Path, cpp: bool) -> list[str]:
    """Return the command of a checkout's service; ClickException where its C++ is not built."""
    if not cpp:
        rooms = ":".join(str((checkout / room).resolve()) for room in _ROOMS)
        return [sys.executable, "-c", f"{_SERVE}sys.exit(main(sys.argv[2:]))", rooms]
    built = checkout / "build" / "cpp" / "release" / "service" / "himar-serve"
    if not built.exists():
        raise click.ClickException(f"{built} is not there; run `make cpp` in {checkout}.")
    return [str(built)]


def measure(serve: Sequence[str], bundle: Path, options: Sequence[str], load: Sequence[str]) -> dict[str, Any]:
    """Serve the bundle with a program and return what himar-bench-server says of it."""
    with serving([*serve, str(bundle), "--port", "0", *options]) as (url, process):
        before = cpu_seconds(process)
        report = bench(url, *load)
        return {**report, "cpu_seconds": cpu_seconds(process) - before}


def figures(reports: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the medians over the turns."""
    return {
        "CPU seconds of the server": statistics.median(report["cpu_seconds"] for report in reports),
        "images/s": statistics.median(report["images_per_second"] for report in reports),
        **{name: statistics.median(report["latency"][name] for report in reports) for name in ("p50", "p99")},
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--lanes", default=2, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--clients", default=24, show_default=True, type=click.IntRange(1))
@click.option("--requests", default=96, show_default=True, type=click.IntRange(1))
@click.option("--turns", default=3, show_default=True, type=click.IntRange(1))
@click.option("--sampling", help="Named settings of the bundle.")
@click.option("--cpp", is_flag=True, help="Compare the C++ services.")
def main(bundle: Path, other: Path, lanes: int, threads: int, clients: int, requests: int, turns: int,
         sampling: str | None, cpp: bool) -> None:  # fmt: skip
    """Compare this checkout's service of BUNDLE with that of the checkout OTHER."""
    options = ["--lanes", str(lanes), "--threads", str(threads), "--queue", "256", "--timeout", "600"]
    programs = [program(checkout, cpp) for checkout in (other, ROOT)]
    setting = [] if sampling is None else ["--sampling", sampling]
    for count, sent in ((clients, requests), (1, max(requests // 4, 20))):
        load = ["--concurrency", str(count), "--requests", str(sent), "--warm-up", str(count), *setting]
        reports = [[measure(each, bundle, options, load) for each in programs] for _ in range(turns)]
        before, now = (figures(found) for found in zip(*reports, strict=True))
        last = reports[-1][1]
        for name, value in now.items():
            click.echo(f"{count} clients, {name}: {value:.4g} against {before[name]:.4g}: {value / before[name]:.3f}")
        stages = {name: round(1000 * seconds, 1) for name, seconds in last["stages"].items()}
        click.echo(f"{count} clients, milliseconds of a request: {stages}")
        click.echo(f"{count} clients, calls: {last['calls']}")


if __name__ == "__main__":
    main()
