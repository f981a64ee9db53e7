"""Holds a capacity plan against a load test: the same arrivals, simulated and sent.

    python -m benchmarks.service.plan demo/digits --lanes 2 --threads 1

Measures calls of the bundle's engines by their images, what a single client's request takes outside of them, and then,
at shares of the rate that this machine can answer, p50 and p99 of himar-serve's answers and of the simulation. Servers
and clients share the machine, so calls are measured beside as many lanes as will work. Exit code 0 only if every
percentile agrees within --within.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.service.process import PYTHON, bench, serving
from himar_export.plan.simulate import Traffic, simulate
from himar_export.plan.times import CallSeconds, measured
from himar_runtime import Pipeline
from himar_runtime.service.policy import Policy

_QUEUE = 256


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--lanes", default=2, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--sampling", help="Named settings of the bundle.")
@click.option("--load", "shares", multiple=True, default=(0.3, 0.6, 0.85), show_default=True, type=float)
@click.option("--requests", default=400, show_default=True, type=click.IntRange(100), help="Sent at each rate.")
@click.option("--within", default=0.2, show_default=True, type=float, help="Share by which percentiles may differ.")
@click.option("--json", "as_json", is_flag=True)
def main(bundle: Path, lanes: int, threads: int, sampling: str | None, shares: tuple[float, ...], requests: int,
         within: float, as_json: bool) -> None:  # fmt: skip
    """Compare simulated latencies of BUNDLE's service with measured ones."""
    pipeline = Pipeline.load(bundle, threads=threads)
    manifest = pipeline.bundle.manifest
    settings = manifest.sampling[sampling] if sampling else next(iter(manifest.sampling.values()))
    policy = Policy(lanes=lanes, queue=_QUEUE, max_batch=manifest.max_batch)
    (times,) = measured(pipeline, [lanes], manifest.max_batch, settings, 5)
    del pipeline
    command = [*PYTHON, str(bundle), "--port", "0", "--lanes", str(lanes), "--threads", str(threads)]
    with serving([*command, "--queue", str(_QUEUE), "--timeout", "600"]) as (url, _):
        rows = _compare(url, times, policy, sampling, shares, requests)
    worst = max(abs(row[name]["simulated"] / row[name]["measured"] - 1) for row in rows for name in ("p50", "p99"))
    if as_json:
        click.echo(json.dumps({"seconds": dict(times.seconds), "rates": rows, "worst": worst}, indent=1))
    else:
        for row in rows:
            click.echo(row)
        click.echo(f"worst difference {worst:.0%}")
    sys.exit(0 if worst <= within else 1)


def _compare(
    url: str, times: CallSeconds, policy: Policy, sampling: str | None, shares: tuple[float, ...], requests: int
) -> list[dict[str, Any]]:
    setting = () if sampling is None else ("--sampling", sampling)
    alone = bench(url, "--requests", 40, *setting)["stages"]
    overhead = alone["encode"] + alone["rest"]
    most = times.most_per_second(policy.max_batch)
    rows = []
    for share in shares:
        rate = share * most
        found = bench(url, "--requests", requests, "--rate", rate, *setting)
        simulated = simulate(Traffic(rate, 1, overhead), times, policy, requests, seed=0, warm_up=0)
        rows.append(
            {
                "load": share,
                "rate": round(rate, 2),
                **{
                    f"p{each}": {
                        "simulated": round(simulated.percentile(each), 4),
                        "measured": round(found["latency"][f"p{each}"], 4),
                    }
                    for each in (50, 99)
                },
                "images_per_call": {"simulated": simulated.images_per_call, "measured": found["calls"]["images"]},
            }
        )
    return rows


if __name__ == "__main__":
    main()
