"""Defines `himar-export triton`: a bundle as a model of NVIDIA's Triton Inference Server."""

from __future__ import annotations

import re
from pathlib import Path

import click

from himar_kernels.shared.options import THREADS, THREADS_DEFAULT, FiniteRange, NamedPath, device_option

from ..report import print_json
from ..triton.repository import TritonModel, write_model


def _name(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-]{1,128}", text):
        raise click.BadParameter(f"{text!r} cannot name a model; use letters, digits, _ and -.")
    return text


@click.command(epilog="Example: himar-export triton bundle --lanes 2 --device cuda --out models")
@click.argument("bundle", type=NamedPath())
@click.option("--out", required=True, type=NamedPath(file_okay=False), help="Model repository; made if it is missing.")
@click.option("--name", default="himar", show_default=True, callback=_name, help="The model's name.")
@click.option(
    "--lanes", default=1, show_default=True, type=click.IntRange(1, 64),
    help="Instances, each a process with its own weights; with --device cuda so many on each GPU.",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help=f"CPU threads of an instance's engines; {THREADS_DEFAULT}.")
@click.option(
    "--stream", is_flag=True,
    help="Decoupled: requests may ask for unfinished images before the last; only gRPC streams can ask then.",
)  # fmt: skip
@click.option(
    "--queue-delay", default=0.0, show_default=True, type=FiniteRange(0, 10_000), metavar="MS",
    help="Milliseconds that a request waits at most for others to join it in one call of the engines.",
)  # fmt: skip
@click.option("--link", is_flag=True, help="Leave the bundle where it is, and name its path, in place of copying it.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def triton(
    bundle: Path,
    out: Path,
    name: str,
    lanes: int,
    device: str,
    threads: int | None,
    stream: bool,
    queue_delay: float,
    link: bool,
    as_json: bool,
) -> None:
    """Write BUNDLE as a model of Triton's Python backend into a model repository.

    The server's Python needs himar's runtime: pip install himar.
    """
    folder = write_model(bundle, out, TritonModel(name, lanes, device, threads, stream, queue_delay, link))
    if as_json:
        print_json({"model": str(folder), "name": name, "lanes": lanes, "stream": stream})
    else:
        click.echo(f"wrote {folder}; start it with: tritonserver --model-repository {out}")
