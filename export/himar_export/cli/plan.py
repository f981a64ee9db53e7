"""Defines `himar-export plan`: how many devices a rate of requests needs, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from himar.cli.options import config_option
from himar_kernels.families.sampling_options import sampling_options
from himar_kernels.shared.files import require_writable_file
from himar_kernels.shared.options import (
    THREADS,
    THREADS_DEFAULT,
    FamilyCommand,
    FiniteRange,
    NamedPath,
    device_option,
)

from ..report import print_json
from .options import precision_options
from .progress import progress_bar

_POSITIVE = FiniteRange(min=0, min_open=True)
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ms|s)")
_WITHOUT_BUNDLE = ("config", "vae", "precision", "component_precision")
_ROOFLINE = ("peak_tflops", "peak_gbps", "share")


class Duration(click.ParamType):
    """Seconds, written like 2s or 500ms."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click.ParamType; fails for what is no time."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(value)
        if found is None or not 0 <= (number := float(found[1])) < 1e6:
            self.fail(f"{value!r} is not a time; write it like 2s or 500ms.", param, ctx)
        return number / 1000 if found[2] == "ms" else number


@click.command(
    cls=FamilyCommand,
    epilog="Example: himar-export plan bundle --rate 50 --p99 2s --device-seconds bench.json --price 2.5, or "
    "himar-export plan --config himar-b --fp16 --rate 400 --p99 4s --peak-tflops 790 --peak-gbps 4800 --share 0.5",
)
@click.argument("path", required=False, metavar="[BUNDLE]", type=NamedPath())
@click.option("--rate", required=True, type=FiniteRange(0, 1e6, min_open=True), help="Requests a second, on average.")
@click.option("--p99", required=True, type=Duration(), help="Time in which 99 of 100 requests are answered, like 2s.")
@click.option("--images", default=1, show_default=True, type=click.IntRange(1, 1024), help="Images of a request.")
@click.option("--device-seconds", type=NamedPath(dir_okay=False),
              help="Times of calls by their images: JSON of bench --json, or of --measure --save.")  # fmt: skip
@click.option("--measure", is_flag=True, help="Measure the times of calls of BUNDLE here.")
@click.option("--save", type=NamedPath(dir_okay=False), help="With --measure: file for the times, written anew.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1, 1000),
              help="With --measure: calls of each size, of which the median counts.")  # fmt: skip
@click.option("--lanes", multiple=True, type=click.IntRange(1, 64),
              help="With --measure: lanes of a device; may be repeated to choose.  [default: 1]")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, callback=device_option,
              help="With --measure: cpu, cuda or cuda:N.")  # fmt: skip
@click.option("--threads", type=THREADS, help=f"With --measure: CPU threads of a call; {THREADS_DEFAULT}.")
@click.option("--peak-tflops", type=_POSITIVE, help="Estimate the times: TFLOP/s of the device at best.")
@click.option("--peak-gbps", type=_POSITIVE, help="Estimate the times: GB/s of its memory at best.")
@click.option("--share", type=FiniteRange(0, 1, min_open=True),
              help="Estimate the times: share of that roofline which engines reach; bench prints it.")  # fmt: skip
@click.option("--config", callback=config_option, help="Estimate without a bundle: preset or JSON file.")
@click.option("--vae", type=NamedPath(), help="With --config: KL-VAE checkpoint, as for inspect --cost.")
@precision_options("With --config")
@click.option("--max-batch", type=click.IntRange(1, 1024), help="Most images of a call; the bundle's, else 64.")
@click.option("--queue-delay", default=5.0, show_default=True, type=FiniteRange(0, 10_000), metavar="MS",
              help="As himar-serve's.")  # fmt: skip
@click.option("--overhead", default="0ms", show_default=True, type=Duration(),
              help="Time of a request outside the engines (himar-bench-server: encode and rest).")  # fmt: skip
@click.option("--price", type=_POSITIVE, help="Price of a device for an hour, for the cost per million images.")
@sampling_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    path: Path | None,
    rate: float,
    p99: float,
    images: int,
    overhead: float,
    price: float | None,
    max_batch: int | None,
    queue_delay: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Say how many devices answer a rate of requests in time, how to serve on each, and what that costs.

    The queue, lanes and batching of himar-serve are simulated with the times of calls that are measured, read from a
    file, or estimated from the cost model. docs/scale.md shows it from one card to a fleet.
    """
    from himar_runtime.service.policy import Policy

    from ..plan.report import plan_values, print_plan
    from ..plan.search import Wanted, find_plan

    found, source, largest = _times(path, max_batch, as_json, options)
    wanted = Wanted(rate, p99, images, overhead)
    chosen = find_plan(wanted, found, Policy(max_batch=largest, queue_delay=queue_delay / 1000))
    values = plan_values(chosen, wanted, source, price)
    if as_json:
        print_json(values)
    else:
        print_plan(values, "BUNDLE" if path is None else str(path))


def _times(
    path: Path | None, max_batch: int | None, as_json: bool, options: dict[str, Any]
) -> tuple[Sequence[Any], str, int]:
    """Return the times of calls for each number of lanes, where they come from, and the most images of a call."""
    roofline = [name for name in _ROOFLINE if options[name] is not None]
    sources = [options["device_seconds"] is not None, options["measure"], bool(roofline)]
    if sum(sources) != 1:
        raise click.UsageError(
            f"{'several of' if sum(sources) else 'none of'} --device-seconds, --measure and --peak-tflops are given; "
            f"give one: where the times of calls come from."
        )
    source_of = click.get_current_context().get_parameter_source
    for name in ("save", "lanes", "threads", "device", "repeats"):
        if source_of(name) is not ParameterSource.DEFAULT and not options["measure"]:
            raise click.UsageError(f"--{name} needs --measure.")
    model = {name: options.pop(name) for name in _WITHOUT_BUNDLE}
    described = [name for name, value in model.items() if value]
    if described and (path is not None or not roofline):
        raise click.UsageError(
            "--config and what goes with it describe a model without a bundle whose times are estimated; leave them "
            "out, or the bundle, and give --peak-tflops, --peak-gbps and --share."
        )
    if path is None and model["config"] is None:
        raise click.UsageError("Missing argument 'BUNDLE'; only an estimate with --config needs none.")
    most = _largest(path, max_batch)
    if options["device_seconds"] is not None:
        return _read(options["device_seconds"], options, most)
    if options["measure"]:
        return _measured(path, as_json, options, most)
    return _estimated(path, model, options, most)


def _largest(path: Path | None, max_batch: int | None) -> int:
    """Return the most images of a call. BundleError, and click.UsageError for more than the bundle's engines take."""
    from himar_runtime import Bundle

    if path is None:
        return max_batch or 64
    largest = Bundle.open(path).manifest.max_batch
    if max_batch is not None and max_batch > largest:
        raise click.UsageError(
            f"--max-batch is {max_batch}, but the engines of {path} take at most {largest} images; give at most that."
        )
    return max_batch or largest


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of sampling."""
    own = ("device_seconds", "measure", "save", "repeats", "lanes", "device", "threads", *_ROOFLINE)
    return {name: value for name, value in options.items() if name not in own}


def _read(file: Path, options: dict[str, Any], most: int) -> tuple[Sequence[Any], str, int]:
    from ..plan.times import read_seconds

    for name, value in _changes(options).items():
        if value not in (None, (), {}):
            option = name.removesuffix("_name").replace("_", "-")
            raise click.UsageError(f"--{option} changes nothing of times that are read from a file; leave it out.")
    return read_seconds(file), str(file), most


def _measured(path: Path | None, as_json: bool, options: dict[str, Any], most: int) -> tuple[Sequence[Any], str, int]:
    from himar_runtime import Pipeline
    from himar_runtime.families.family import runtime_family

    from ..plan.times import measured, write_seconds

    assert path is not None
    if options["save"] is not None:
        require_writable_file(options["save"])
    changes = _changes(options)
    name, guidance = changes.pop("sampling_name"), changes.pop("guidance")
    lanes = sorted(set(options["lanes"] or (1,)))
    with progress_bar(as_json) as advance:
        advance("loading the engines", 0.0)
        pipeline = Pipeline.load(path, str(options["device"]), options["threads"])
        manifest = pipeline.bundle.manifest
        family = runtime_family(manifest.family)
        sampling = family.choose_sampling(manifest.model, manifest.sampling, name, guidance, changes)
        found = measured(pipeline, lanes, most, sampling, options["repeats"], advance)
    if options["save"] is not None:
        write_seconds(found, options["save"])
    return found, f"measured here, the median of {options['repeats']} calls of each size", most


def _estimated(
    path: Path | None, model: dict[str, Any], options: dict[str, Any], most: int
) -> tuple[Sequence[Any], str, int]:
    from ..cost.cost import Peaks
    from ..cost.request import bundle_request, config_request
    from ..plan.times import estimated

    tflops, gbps, share = (options[name] for name in _ROOFLINE)
    if None in (tflops, gbps, share):
        raise click.UsageError("an estimate needs --peak-tflops, --peak-gbps and --share; give all three.")
    changes = _changes(options)
    if path is None:
        request = config_request(
            model["config"], model["vae"], model["precision"] or "fp32", model["component_precision"], 1, **changes
        )
    else:
        request = bundle_request(path, 1, **changes)
    source = f"estimated: {share:.0%} of {tflops:g} TFLOP/s and {gbps:g} GB/s"
    return [estimated(request, Peaks(1e12 * tflops, 1e9 * gbps), share, most)], source, most
