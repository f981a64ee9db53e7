"""Defines `himar-export inspect --cost`: its options, and which of them belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from himar.cli.options import config_option
from himar_kernels.families.hi_mar.sampling_options import step_options
from himar_kernels.shared.options import FiniteRange, NamedPath

from ..cli.options import precision_pairs
from .cost import Peaks
from .report import print_costs
from .request import bundle_request, config_request

# What describes a model that is not a bundle: a bundle has its own.
_MODEL_OPTIONS = ("config", "vae", "precision", "component_precision")

_POSITIVE = FiniteRange(min=0, min_open=True)
_BATCH = click.IntRange(1, 2**20)
"""More is a typing error: no device holds so many at once."""

_OPTIONS = (
    click.option("--cost", is_flag=True, help="Show a run's operations, bytes and shortest possible time instead."),
    click.option("--config", callback=config_option, help="--cost of a preset or JSON file, without a bundle."),
    click.option("--vae", type=NamedPath(),
                 help="--cost with --config: KL-VAE checkpoint; KL-16 if not given, where the tokens are KL-16's."),
    click.option("--fp32", "precision", flag_value="fp32", default=None, help="--cost with --config: in float32."),
    click.option("--fp16", "precision", flag_value="fp16", help="--cost with --config: matmuls in float16."),
    click.option("--bf16", "precision", flag_value="bf16", help="--cost with --config: matmuls in bfloat16."),
    click.option("--int8", "precision", flag_value="int8", help="--cost with --config: matmuls in int8."),
    click.option("--precision", "component_precision", multiple=True, metavar="NAME=PRECISION",
                 callback=precision_pairs, help="--cost with --config: of one component; may be repeated."),
    click.option("--batch", type=_BATCH, help="--cost: images at once; 1 if not given."),
    click.option("--peak-tflops", type=_POSITIVE,
                 help="--cost: TFLOP/s of the device at best, for the shortest time."),
    click.option("--peak-gbps", type=_POSITIVE,
                 help="--cost: GB/s of its memory at best, for the shortest time."),
)  # fmt: skip


def cost_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of --cost to a command; `inspect_cost` reads them."""
    command = step_options(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def inspect_cost(path: Path | None, as_json: bool, options: dict[str, Any]) -> None:
    """Print the cost of a run from a bundle or of a configuration. Raises click.UsageError, and what both raise."""
    tflops, gbps = options.pop("peak_tflops"), options.pop("peak_gbps")
    peaks = Peaks(None if tflops is None else 1e12 * tflops, None if gbps is None else 1e9 * gbps)
    options["batch"] = options["batch"] or 1
    model = {name: options.pop(name) for name in _MODEL_OPTIONS}
    if path is None and model["config"] is None:
        raise click.UsageError("--cost needs a bundle, or --config with a preset or a JSON file.")
    if path is None:
        request = config_request(
            model["config"], model["vae"], model["precision"] or "fp32", model["component_precision"], **options
        )
    else:
        for name, value in model.items():
            if value:
                raise click.UsageError(
                    f"{_spelled(name, value)} describes a model without a bundle, but the bundle {path} has its own; "
                    f"leave one of them out."
                )
        request = bundle_request(path, **options)
    print_costs(request, peaks, as_json)


def refuse_cost_options(options: dict[str, Any]) -> None:
    """Raise click.UsageError if an option of --cost is given without it."""
    for name, value in options.items():
        if value not in (None, {}, ()):
            raise click.UsageError(f"{_spelled(name, value)} needs --cost.")


def _spelled(name: str, value: Any) -> str:
    """Return an option as it is written on the command line, from its parameter's name and value."""
    if name == "precision":
        return f"--{value}"
    return "--" + name.removeprefix("component_").removesuffix("_name").replace("_", "-")
