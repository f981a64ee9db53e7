"""Defines the command `himar-serve`. FastAPI, uvicorn and others are imported when it runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from himar_kernels import InputError
from himar_kernels.shared.console import require_extra, run_cli
from himar_kernels.shared.interruptions import forget_interruption
from himar_kernels.shared.options import FiniteRange, NamedPath

from .origins import check_origin
from .tokens import read_tokens

if TYPE_CHECKING:
    from .service import Settings

# The C++ server's limits too (runtime/cpp/service/arguments.cpp): a typing error must not start a million threads.
_LANES = click.IntRange(1, 64)
_THREADS = click.IntRange(0, 4096)
_QUEUE = click.IntRange(1, 256)
_IMAGES = click.IntRange(1, 65536)
_BODY = click.IntRange(1, 2**30)
_MOST_SECONDS = 1e6


def _origins(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(check_origin(text) for text in texts)
    except InputError as error:
        raise click.BadParameter(str(error)) from None


def _tokens(context: click.Context, parameter: click.Parameter, path: Path | None) -> tuple[str, ...]:
    try:
        return () if path is None else read_tokens(path)
    except InputError as error:
        raise click.BadParameter(str(error)) from None


def _root_path(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if text and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text):
        raise click.BadParameter(f"{text!r} is not a prefix of paths; write it like /himar, without a / at its end.")
    return text


@click.command(
    epilog="Example: himar-serve bundle --port 8000 --lanes 4 --threads 1",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("bundle", type=NamedPath())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--lanes", default=1, show_default=True, type=_LANES, help="Calls of the engines that run at once.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--threads", default=0, show_default=True, type=_THREADS,
    help="CPU threads of one engine run; 0: the CPUs it may use (affinity, OMP_NUM_THREADS, container quota).",
)  # fmt: skip
@click.option("--backend", help="onnxruntime runs a TensorRT bundle's ONNX graphs; its own engines if not given.")
@click.option("--queue", default=64, show_default=True, type=_QUEUE, help="Waiting requests per lane.")
@click.option(
    "--max-batch", type=_IMAGES,
    help="Most images of requests that run in one call; 1 joins none. Default: as many as the bundle's engines take "
    "and the memory has room for.",
)  # fmt: skip
@click.option(
    "--queue-delay", default=5.0, show_default=True, type=FiniteRange(0, 10_000), metavar="MS",
    help="Milliseconds that a request waits at most for others to join it, where the call before had several.",
)  # fmt: skip
@click.option("--max-images", default=64, show_default=True, type=_IMAGES, help="Maximum images in one request.")
@click.option(
    "--max-body", default=1_048_576, show_default=True, type=_BODY,
    help="Maximum bytes of a request's body; an edit may have two uncompressed images more.",
)  # fmt: skip
@click.option(
    "--timeout", default=60.0, show_default=True, type=FiniteRange(0, _MOST_SECONDS, min_open=True),
    help="Seconds from acceptance to answer.",
)  # fmt: skip
@click.option(
    "--drain-seconds", default=30.0, show_default=True, type=FiniteRange(0, _MOST_SECONDS),
    help="Seconds that accepted requests get when the server is told to stop.",
)  # fmt: skip
@click.option(
    "--keep-alive", default=75.0, show_default=True, type=FiniteRange(0, _MOST_SECONDS),
    help="Seconds that a connection may be idle between two requests; more than a proxy in front allows.",
)  # fmt: skip
@click.option(
    "--allow-origin", multiple=True, metavar="ORIGIN", callback=_origins,
    help="Origin of web pages that may use the server, for example https://app.example; * for all. May be repeated.",
)  # fmt: skip
@click.option(
    "--token-file", "tokens", type=NamedPath(dir_okay=False), callback=_tokens,
    help="File of tokens, one a line; requests need one as 'Authorization: Bearer TOKEN', but for health and metrics.",
)  # fmt: skip
@click.option(
    "--root-path", default="", metavar="/PATH", callback=_root_path,
    help="Prefix that a proxy leaves before each path, for example /himar; paths without it are answered too.",
)  # fmt: skip
@click.option("--log-json", is_flag=True, help="Write the log as JSON lines.")
@click.version_option(package_name="himar", prog_name="himar-serve")
def cli(host: str, port: int, log_json: bool, **options: Any) -> None:
    """Serve images from BUNDLE over HTTP. SIGTERM and Ctrl-C finish what was accepted, then end it.

    Add --debug to see the traceback of an error.

    On a CPU, HIMAR_ORT_PACKED=1 in the environment keeps weights packed on the disk, in himar's folder of the user's
    cache: later starts are faster, and servers of one bundle share them. It takes up to three times their size.
    """
    require_extra("service", "fastapi", "uvicorn", "prometheus_client", "python_multipart")
    try:
        from .log import log_to_stderr
        from .server import serve

        log_to_stderr(log_json)
        serve(read_settings(**options), host, port, lambda address: click.echo(f"himar-serve: listening on {address}"))
    except KeyboardInterrupt:  # of run_cli, until the server takes signals itself: nothing was accepted yet
        forget_interruption()
        click.echo("stopped before it served anything.", err=True)


def read_settings(threads: int, queue_delay: float, **options: Any) -> Settings:
    """Return the settings of a service that the command's options ask for; those of the server and the log left out."""
    from .service import Settings

    return Settings(threads=threads or None, queue_delay=queue_delay / 1000, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_cli(cli, argv)
