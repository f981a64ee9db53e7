"""Times HMAR against VAR at equal size: the same weights, each scale alone against all coarser scales from a cache.

    himar init --config hmar-d16 --out d16.safetensors
    himar-export build d16.safetensors --config hmar-d16 --vae d16-vae.safetensors --max-batch 8 --out d16
    python -m benchmarks.hmar.against_var d16 --checkpoint d16.safetensors --config hmar-d16 --vae d16-vae.safetensors \
        --batch 1 --batch 8 --memory --out against-var.json

Four sides take turns in one run: engines and eager, in HMAR's mode (masked steps by the schedule, no cache) and in
VAR's (keys and values of all coarser scales kept, no masked steps). Engines are compared with eager in their mode
first, as `himar-export bench` does; what differs is not timed: exit code 1. Labels, seed, guidance and filters are the
same, and decoding is included. A ratio is the median over rounds of the quotient within a round, with its 95 %
interval; ? marks one that is inconclusive. Memory is the peak of a generation in a process of its own, with weights but
without libraries; engines load what their mode needs alone, eager the whole checkpoint. On a GPU it is the driver's.

The paper's claims are of an A100 at depths 20 to 36, batch 4 to 16, 256 to 1024 pixels: over 1.75 times as fast with
over 3 times less memory. Operations are nearly the same (`himar-export inspect --cost`): what differs is the cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click

from himar.cli.options import config_option
from himar_export.bench.eager import plain_float32, wait_for
from himar_export.bench.environment import environment
from himar_export.bench.generation import generation_work
from himar_export.bench.measurement import EAGER, ENGINES, Work, compared_sides, share_of_others, spent
from himar_export.bench.run import Memory, peak_memory
from himar_export.bench.text_table import NOTHING, ratio_text
from himar_export.bench.timing import Advance, Rounds, Side, calls_in_turn, medians, take_turns, warm_up
from himar_export.bench.verdict import Ratio, ratio
from himar_export.bench.workload import Sources, Workload, load, require_batch
from himar_export.families.hmar.cost.request import HmarRequest
from himar_export.report import readable
from himar_kernels import InputError
from himar_kernels.families.hmar import SamplingConfig
from himar_kernels.shared.console import FAILURE, run_cli
from himar_kernels.shared.files import file_sha256, require_writable_file, write_json
from himar_kernels.shared.options import THREADS, THREADS_DEFAULT, FiniteRange, NamedPath, device_option
from himar_runtime import Bundle

HMAR, VAR = "HMAR", "VAR"
CLAIMS = {"seconds": 1.75, "memory": 3.0}
"""Of the paper: VAR's by HMAR's."""


@dataclass(frozen=True)
class Result:
    """All four sides at one batch size; keys of a side are (way, mode).

    seconds: medians of a generation. ratios: of each comparison, by its name. memory: of each side's process. differ:
    sides that were not timed, and why; then there are no seconds of any.
    """

    batch: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    rounds: Mapping[str, Rounds] = field(default_factory=dict)
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    memory: Mapping[str, Memory] = field(default_factory=dict)
    differ: tuple[str, ...] = ()


def modes(workload: Workload) -> dict[str, Workload]:
    """Return the same engines and model with settings for HMAR's mode and for VAR's; InputError for another family."""
    request = workload.request
    if not isinstance(request, HmarRequest):
        raise InputError(f"{workload.bundle.root} is not an HMAR model's bundle; only such a model has VAR's mode.")
    own: SamplingConfig = request.sampling.with_changes(all_scales=False)
    var = own.with_changes(schedule=(), all_scales=True)
    return {
        name: replace(workload, request=replace(request, sampling=each)) for name, each in ((HMAR, own), (VAR, var))
    }


def side_name(way: str, mode: str) -> str:
    """Return the name of a side: "engines, HMAR"."""
    return f"{way}, {mode}"


def measure(
    workload: Workload,
    batch: int,
    repeats: int,
    warm_limit: float,
    sources: Sources | None,
    threads: int,
    advance: Advance,
) -> Result:
    """Compare, then time the four sides in turns; sources: of the processes that measure memory, None for none."""
    settings = modes(workload)
    works = {mode: generation_work(each, batch, False) for mode, each in settings.items()}
    differ = tuple(f"{mode}: {reason}" for mode, work in works.items() for reason in _differences(work))
    if differ:
        return Result(batch, differ=differ)
    sides = [
        Side(side_name(side.name, mode), side.run, side.outputs)
        for mode, work in works.items()
        for side in work.sides
        if side.name in (EAGER, ENGINES)
    ]
    calls = {}
    for number, side in enumerate(sides):
        advance(f"batch {batch}: warming up {side.name}", 0.2 * number / len(sides))
        calls[side.name] = calls_in_turn(warm_up(side.run, warm_limit))
    before = spent()
    rounds = take_turns(sides, repeats, calls, lambda text, done: advance(f"batch {batch}: {text}", 0.2 + 0.6 * done))
    others = share_of_others(before, spent())
    seconds = {name: medians(each) for name, each in rounds.items()}
    memory: dict[str, Memory] = {}
    if sources is not None:
        advance(f"batch {batch}: memory, in processes of their own", 0.8)
        for mode, each in settings.items():
            found = peak_memory(sources, each, batch, threads, generation_alone=True)
            memory |= {side_name(way, mode): size for way, size in found.items()}
    return Result(
        batch,
        {name: sorted(each)[len(each) // 2] for name, each in seconds.items()},
        rounds,
        dict(_ratios(seconds, others)),
        memory,
    )


def _differences(work: Work) -> Iterator[str]:
    """Yield why a side's outputs are not eager's in float32."""
    _, refused, _ = compared_sides(work, lambda text, done: None)
    yield from refused.values()


def _ratios(seconds: Mapping[str, Sequence[float]], others: float | None) -> Iterator[tuple[str, Ratio]]:
    for way in (ENGINES, EAGER):
        pair = (seconds[side_name(way, VAR)], seconds[side_name(way, HMAR)])
        yield f"{way}: {VAR} / {HMAR}", ratio(*pair, others)
    for mode in (HMAR, VAR):
        pair = (seconds[side_name(EAGER, mode)], seconds[side_name(ENGINES, mode)])
        yield f"{mode}: {EAGER} / {ENGINES}", ratio(*pair, others)


def lines(results: Sequence[Result]) -> Iterator[str]:
    """Yield a Markdown table of seconds and memory, and one of ratios beside the paper's."""
    yield "| batch | side | s/image | peak memory |"
    yield "|---|---|---:|---:|"
    for result in results:
        for name, seconds in result.seconds.items():
            size = readable(taken(result.memory[name])) if name in result.memory else NOTHING
            yield f"| {result.batch} | {name} | {seconds / result.batch:.3f} | {size} |"
    yield ""
    yield "| batch | ratio | measured | the paper's |"
    yield "|---|---|---:|---:|"
    for result in results:
        for name, found in result.ratios.items():
            claim = f"{CLAIMS['seconds']:g}×" if name.startswith((ENGINES, EAGER)) else NOTHING
            yield f"| {result.batch} | seconds, {name} | {ratio_text(found)} | {claim} |"
        for way in (ENGINES, EAGER):
            if side_name(way, VAR) in result.memory:
                more = taken(result.memory[side_name(way, VAR)]) / taken(result.memory[side_name(way, HMAR)])
                yield f"| {result.batch} | memory, {way}: {VAR} / {HMAR} | {more:.2f}× | {CLAIMS['memory']:g}× |"


def taken(memory: Memory) -> int:
    """Return the bytes that a side takes at its peak: without libraries, on a GPU the driver's."""
    return memory.peak - memory.imported if memory.device is None else memory.device


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=NamedPath())
@click.option("--checkpoint", required=True, type=NamedPath(), help="What the bundle was built from.")
@click.option("--config", callback=config_option, help="Preset or JSON file, as for build.")
@click.option("--vae", required=True, type=NamedPath(), help="The tokenizer's checkpoint.")
@click.option(
    "--sampling", "sampling_name", help="Named settings of HMAR's mode; the first of the bundle if not given."
)
@click.option("--batch", "batches", multiple=True, default=(1,), show_default=True, type=click.IntRange(1, 1024))
@click.option("--repeats", default=6, show_default=True, type=click.IntRange(3, 10_000), help="Of each side, in turns.")
@click.option("--warm-up", "warm_limit", default=3.0, show_default=True, type=FiniteRange(min=0),
              help="Maximum seconds for a side to settle.")  # fmt: skip
@click.option("--memory", is_flag=True, help="Measure each side's peak memory, in a process of its own.")
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help=f"CPU threads of all sides; {THREADS_DEFAULT}.")
@click.option("--out", type=NamedPath(dir_okay=False), help="File for every repetition and the environment, as JSON.")
def main(
    bundle: Path,
    checkpoint: Path,
    config: str | None,
    vae: Path,
    sampling_name: str | None,
    batches: tuple[int, ...],
    repeats: int,
    warm_limit: float,
    memory: bool,
    device: str,
    threads: int | None,
    out: Path | None,
) -> int:
    """Measure every batch size, print the tables, and write the JSON."""
    if out is not None:
        require_writable_file(out)
    opened = Bundle.open(bundle)
    for batch in batches:
        require_batch(opened, batch)
    sources = Sources(bundle, checkpoint, config, vae, None, device, sampling_name, None, {})
    results: list[Result] = []
    with plain_float32(threads) as used:
        found = environment(device, sys.argv)
        workload = load(sources, used)
        for batch in batches:
            asked = sources if memory else None
            results.append(measure(workload, batch, repeats, warm_limit, asked, used, _say))
        wait_for(workload.device)()
    for line in lines(results):
        click.echo(line)
    if out is not None:
        settings = {mode: each.sampling.to_dict() for mode, each in modes(workload).items()}
        values = {"bundle_id": opened.id, "checkpoint_sha256": file_sha256(checkpoint), "threads": used}
        write_json(out, {"environment": found, **values, "sampling": settings, "results": [asdict(r) for r in results]})
    different = [reason for result in results for reason in result.differ]
    for reason in different:
        click.echo(f"error: not timed: {reason}", err=True)
    return FAILURE if different else 0


def _say(text: str, fraction: float) -> None:
    click.echo(f"[{fraction:4.0%}] {text}", err=True)


if __name__ == "__main__":
    sys.exit(run_cli(main))
