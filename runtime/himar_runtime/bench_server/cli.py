"""Defines the command `himar-bench-server`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from himar_kernels import InputError
from himar_kernels.shared.console import FAILURE, require_extra, run_cli
from himar_kernels.shared.live_line import live_line
from himar_kernels.shared.options import SEED, FiniteRange, NamedPath, given_prompts, label_option, prompt_options

_REQUESTS = click.IntRange(1, 10_000_000)
_CLIENTS = click.IntRange(1, 10_000)
_URL = re.compile(r"https?://[^/\s?#]+(/[^\s?#]*)?")


def _url(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if not _URL.fullmatch(text):
        raise click.BadParameter(f"{text!r} is not the address of a server; write it like http://localhost:8000.")
    return text.rstrip("/")


def _labels(context: click.Context, parameter: click.Parameter, text: str | None) -> list[int]:
    labels = label_option(context, parameter, text) or []
    for label in labels:
        if isinstance(label, str):
            raise click.BadParameter(f"{label!r} is not a number; classes are given by number here, like 0-9.")
    return labels  # type: ignore[return-value]


def _token(context: click.Context, parameter: click.Parameter, path: Path | None) -> str | None:
    from ..service.tokens import read_tokens

    try:
        return None if path is None else read_tokens(path)[0]
    except InputError as error:
        raise click.BadParameter(str(error)) from None


def _changes(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    changes = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not key or not sign:
            raise click.BadParameter(f"{text!r} has no value; write KEY=VALUE, for example low_steps=8.")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    return changes


@click.command(
    epilog="Example: himar-bench-server http://localhost:8000 --concurrency 24 --requests 500 --sampling fast",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("url", callback=_url)
@click.option("--requests", default=100, show_default=True, type=_REQUESTS, help="Requests that are measured.")
@click.option("--warm-up", default=4, show_default=True, type=click.IntRange(0, 100_000), help="Requests before them.")
@click.option("--concurrency", type=_CLIENTS, help="Clients, each of which asks again once answered.  [default: 1]")
@click.option(
    "--rate", type=FiniteRange(0, 1e6, min_open=True),
    help="Requests a second instead, at random times whatever the server makes of them; latency counts from then.",
)  # fmt: skip
@click.option("--images", default=1, show_default=True, type=click.IntRange(1, 65536), help="Images of one request.")
@click.option("--sampling", help="Name of the bundle's settings; its default if not given.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", callback=_changes,
    help="Key of the request's body, such as low_steps=8; may be repeated.",
)  # fmt: skip
@click.option("--labels", callback=_labels, help="Class numbers in turns, like 0,3,5-9; every class if not given.")
@prompt_options
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the first request; later ones count on.")
@click.option(
    "--api", default="himar", show_default=True, type=click.Choice(["himar", "openai"]),
    help="himar: /v1/images; openai: /v1/images/generations.",
)  # fmt: skip
@click.option(
    "--partial-images", type=click.IntRange(0, 3),
    help="Stream each answer, with so many unfinished images before it; needs --api openai.",
)  # fmt: skip
@click.option("--token-file", "token", type=NamedPath(dir_okay=False), callback=_token, help="As the server's.")
@click.option(
    "--timeout", default=600.0, show_default=True, type=FiniteRange(0, 1e6, min_open=True),
    help="Seconds that a client waits for an answer.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.version_option(package_name="himar", prog_name="himar-bench-server")
def cli(
    as_json: bool,
    concurrency: int | None,
    rate: float | None,
    prompts: Sequence[str],
    prompts_file: Sequence[str] | None,
    **options: Any,
) -> int:
    """Measure the himar-serve at URL, which runs already: latency, throughput, and where the time goes.

    Exit code 0 only if every request was answered with its images; failures are counted and shown.
    """
    require_extra("bench-server", "aiohttp")
    from .client import Wanted
    from .load import Load, run
    from .report import print_summary, summarise

    if concurrency is not None and rate is not None:
        raise click.UsageError("--concurrency and --rate are both given; give the clients or the rate.")
    wanted = Wanted(**{name: options.pop(name) for name in ("api", "images", "sampling", "partial_images", "changes")})
    if wanted.partial_images is not None and (wanted.api != "openai" or wanted.images != 1):
        raise click.UsageError("--partial-images needs --api openai, and one image in a request.")
    texts = given_prompts(prompts, prompts_file) or ()
    if texts and options["labels"]:
        raise click.UsageError("--labels and prompts are both given; give what the server's model takes.")
    load = Load(wanted=wanted, concurrency=concurrency or 1, rate=rate, prompts=texts, **options)
    with _progress(load.requests, as_json) as advance:
        measured = asyncio.run(run(load, advance))
    summary = summarise(load, measured)
    if as_json:
        click.echo(json.dumps(summary, indent=1))
    else:
        print_summary(summary)
    return FAILURE if summary["failures"] else 0


@contextmanager
def _progress(requests: int, silent: bool) -> Iterator[Callable[[int], None]]:
    """Draw a progress bar on stderr, none under --json."""
    bar = Progress(
        MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), disable=silent,
        transient=True,
    )  # fmt: skip
    with live_line(bar):
        task = bar.add_task("", total=requests)
        yield lambda count: bar.advance(task, count)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_cli(cli, argv)
