"""Reports a benchmark: tables and sentences for the terminal and Markdown, and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from himar_export.bench.measurement import EAGER, ENGINES, SIDES, Measurement
from himar_export.bench.mix_report import mix_table, mix_verdicts
from himar_export.bench.roofline import Reached
from himar_export.bench.run import BenchReport, ComponentResult, Generation
from himar_export.bench.statistics import needed_for
from himar_export.bench.text_table import NOTHING, TextTable, ratio_text, seconds_text
from himar_export.cost.report import scaled
from himar_export.report import readable
from himar_kernels.shared.files import write_text


def print_report(report: BenchReport) -> None:
    """Print the tables without empty columns, the verdicts and the notes."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for line in (heading(report), f"An image takes {report.workload}."):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for table in tables(report):
        console.print(_rich_table(table.short()))
    for line in (*verdicts(report), *notes(report)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def write_markdown(report: BenchReport, path: Path) -> None:
    """Write the same, with all columns, and the environment. Raises InputError when the file cannot be written."""
    lines = [f"# {heading(report)}", "", f"An image takes {report.workload}.", ""]
    for table in tables(report):
        lines += [f"## {table.title}", "", *_markdown(table), ""]
    said = (*verdicts(report), *component_verdicts(report), *notes(report))
    lines += ["## What that says", "", *(f"* {line}" for line in said), ""]
    lines += ["## Environment", "", *(f"* {name}: {_plain(value)}" for name, value in report.environment.items()), ""]
    write_text(path, "\n".join(lines))


def report_values(report: BenchReport) -> dict[str, Any]:
    """Return the JSON: every repetition of every side and all that is derived from it, in seconds, bytes and FLOPs."""
    values = asdict(report)
    values["generations"] = [_generation(each) for each in report.generations]
    values["components"] = [_component(each) for each in report.components]
    values["sampling"] = report.sampling.to_dict()
    values["differ"] = list(report.differ)
    return values


def _generation(generation: Generation) -> dict[str, Any]:
    m = generation.measurement
    return {
        **_measurement(m),
        "images_per_second": {name: m.batch / timed.summary.median for name, timed in m.times.items()},
        "seconds_per_image": {name: timed.summary.median / m.batch for name, timed in m.times.items()},
        "splits": {
            side: {
                **asdict(breakdown),
                "host": breakdown.host,
                "phases": {phase: breakdown.of_phase(phase) for phase in generation.phases},
            }
            for side, breakdown in generation.breakdowns.items()
        },
        "reached": {name: _reached(each) for name, each in generation.reached.items()},
        "split_whole": _reached(generation.breakdown_whole),
        "whole": _reached(generation.whole),
        "memory": {side: asdict(memory) for side, memory in generation.memory.items()},
        "memory_error": generation.memory_error,
        "mixes": [asdict(each) for each in generation.mixes],
    }


def _component(result: ComponentResult) -> dict[str, Any]:
    return {**_measurement(result.measurement), "rows": result.rows, "reached": _reached(result.reached)}


def _measurement(m: Measurement) -> dict[str, Any]:
    values = asdict(m)
    values["comparisons"] = [{**asdict(c), "passed": c.passed} for c in m.comparisons]
    values["ratios"] = {side: {**asdict(each), "conclusive": each.conclusive} for side, each in m.ratios.items()}
    return values


def _reached(reached: Reached | None) -> dict[str, Any] | None:
    if reached is None:
        return None
    return {**asdict(reached), "share": reached.share, "flops_per_second": reached.flops_per_second}


def _rich_table(table: TextTable) -> Table:
    shown = Table(title=table.title, title_justify="left")
    for number, name in enumerate(table.headings):
        shown.add_column(name, justify="left" if number < table.words else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _markdown(table: TextTable) -> list[str]:
    rule = ["---" if number < table.words else "---:" for number in range(len(table.headings))]
    return [f"| {' | '.join(cells)} |" for cells in (table.headings, rule, *table.rows)]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


_NOT_COMPARED = (
    "whole outputs are not comparable, because rounding alone decides at these settings; every component's output was "
    "compared instead"
)


def tables(report: BenchReport) -> list[TextTable]:
    """Return every table that has a row."""
    found = [
        _latencies(report),
        *(mix_table(each.measurement, each.mixes) for each in report.generations),
        *(_breakdown(each) for each in report.generations),
        _components(report),
        _memory(report),
    ]
    return [table for table in found if table.rows]


def heading(report: BenchReport) -> str:
    """Say what was compared on what."""
    precision = ", ".join(sorted(set(report.precision.values())))
    own = ", ".join(sorted(set(report.eager_precision.values())))
    eager = "" if precision == "fp32" else " (eager by autocast)" if own == precision else f" (eager in {own})"
    where = report.environment.get("gpu") or report.environment["processor"]
    threads = f", {report.threads} {'threads' if report.threads > 1 else 'thread'}" if report.device == "cpu" else ""
    return (
        f"{report.bundle} ({report.backend}) against the eager model, {precision}{eager}, {report.given} to "
        f"{report.to}, on {report.device}: {where}{threads}"
    )


def verdicts(report: BenchReport) -> Iterator[str]:
    """Say of every generation how many times faster the engines are, or why that is inconclusive."""
    for generation in report.generations:
        yield from _verdicts(generation.measurement)
        yield from mix_verdicts(generation.measurement, generation.mixes)


def component_verdicts(report: BenchReport) -> Iterator[str]:
    """Say the same of every component."""
    for result in report.components:
        yield from _verdicts(result.measurement)


def notes(report: BenchReport) -> Iterator[str]:
    """Say what the tables do not: the peaks, what they hold of, and which percentiles there are too few runs for."""
    peaks = report.peaks
    if peaks.flops_per_second is not None and peaks.bytes_per_second is not None:
        yield (
            f"Peaks, measured just before: {scaled(peaks.flops_per_second)}FLOP/s (square matmul), "
            f"{readable(peaks.bytes_per_second)}/s (copy). roofline: the shortest time that the engines' operations "
            f"and bytes can take at these peaks, divided by the time measured."
        )
    if not report.built_from_it:
        yield "The bundle was built from another file than this checkpoint, or does not say from which."
    for generation in report.generations:
        if generation.memory_error is not None:
            yield f"Batch {generation.measurement.batch}: no memory: {generation.memory_error}"
    if any(not ratio.conclusive for result in report.components for ratio in result.measurement.ratios.values()):
        yield "A ratio with ? is inconclusive; --markdown and --json give the reasons of components."
    missing = [percent for percent in (90, 95, 99) if report.repeats < needed_for(percent)]
    if missing and any(each.measurement.times for each in report.generations):
        names, counts = (", ".join(map(str, each)) for each in (missing, map(needed_for, missing)))
        yield f"No percentile {names}: {report.repeats} repetitions are too few, {counts} are needed (--repeats)."


def _place(side: str) -> int:
    """Return a side's place among the rows: mixes come last."""
    return SIDES.index(side) if side in SIDES else len(SIDES)


def _verdicts(m: Measurement) -> Iterator[str]:
    """Say what there is to say of the sides; mixes have a table and verdicts of their own."""
    name = f"{m.name}, batch {m.batch}"
    for side, reason in m.refused.items():
        if side not in SIDES:
            continue
        yield f"{name}: {side} has no latency: {reason}."
    for side, ratio in m.ratios.items():
        if side not in SIDES:
            continue
        if ratio.conclusive:
            outputs = f"outputs differ by {m.apart:.1e} at most" if m.compared else _NOT_COMPARED
            yield (
                f"{name}: engines are {ratio.value:.2f} times as fast as {side} (95 % interval {ratio.low:.2f} … "
                f"{ratio.high:.2f}); {outputs}."
            )
        else:
            yield f"{name}: engines against {side}, {ratio_text(ratio)}, inconclusive: {'; '.join(ratio.doubts)}."
    doubtful = [
        f"{side}: {'; '.join(timed.doubts)}" for side, timed in m.times.items() if timed.doubts and side in SIDES
    ]
    if doubtful:
        yield f"{name}, doubts. {'. '.join(doubtful)}."


def _latencies(report: BenchReport) -> TextTable:
    rows = []
    for generation in report.generations:
        m = generation.measurement
        for side in sorted(m.times, key=_place):
            s = m.times[side].summary
            numbers = (seconds_text(each) for each in (s.minimum, s.median, s.mean, s.p90, s.p95, s.p99))
            rate = (f"{s.variation:.0%}", seconds_text(s.median / m.batch), f"{m.batch / s.median:.3g}")
            rows.append((str(m.batch), side, *numbers, *rate))
    return TextTable(
        f"Whole generations, seconds, {report.repeats} interleaved repetitions",
        ("batch", "side", "least", "median", "mean", "p90", "p95", "p99", "CV", "s/image", "images/s"),
        tuple(rows),
        2,
    )


def _breakdown(generation: Generation) -> TextTable:
    rows: list[tuple[str, ...]] = []
    if generation.breakdowns:
        eager, engines = generation.breakdowns[EAGER], generation.breakdowns[ENGINES]
        for part in engines.parts:
            other = eager.part(part.component)
            reached = generation.reached.get(part.component)
            rows.append(
                (
                    part.component,
                    part.phase,
                    str(part.calls),
                    NOTHING if other is None else seconds_text(other.seconds),
                    seconds_text(part.seconds),
                    _milliseconds(part.seconds / part.calls),
                    *_reached_table(reached),
                )
            )
        rows.append(("host", NOTHING, NOTHING, seconds_text(eager.host), seconds_text(engines.host), *[NOTHING] * 5))
        rows.append(
            ("whole", NOTHING, NOTHING, seconds_text(eager.seconds), seconds_text(engines.seconds), NOTHING,
             *_reached_table(generation.breakdown_whole))
        )  # fmt: skip
    return TextTable(
        f"Batch {generation.measurement.batch}: where the seconds go, in runs of their own for each side",
        ("component", "phase", "calls", EAGER, ENGINES, "ms/call", "FLOPs", "bytes", "FLOP/s", "roofline"),
        tuple(rows),
        2,
        ("FLOP/s",),
    )


def _components(report: BenchReport) -> TextTable:
    return TextTable(
        "Single components, ms, medians of interleaved repetitions",
        ("component", "batch", "rows", *SIDES, "CV", "eager/engines", "FLOPs", "bytes", "FLOP/s",
         "roofline"),
        tuple(_component_table(result) for result in report.components if result.measurement.times),
        details=("CV", "FLOP/s"),
    )  # fmt: skip


def _component_table(result: ComponentResult) -> tuple[str, ...]:
    m = result.measurement
    medians = [_milliseconds(m.times[side].summary.median) if side in m.times else NOTHING for side in SIDES]
    ratio = ratio_text(m.ratios[EAGER]) if EAGER in m.ratios else NOTHING
    variation = f"{m.times[ENGINES].summary.variation:.0%}"
    return (m.name, str(m.batch), str(result.rows), *medians, variation, ratio, *_reached_table(result.reached))


def _memory(report: BenchReport) -> TextTable:
    rows = []
    for generation in report.generations:
        for side, memory in generation.memory.items():
            sizes = (memory.peak, memory.imported, memory.device, memory.allocated)
            cells = (NOTHING if size is None else readable(size) for size in sizes)
            rows.append((str(generation.measurement.batch), side, *cells))
    return TextTable(
        "Memory of a process that loads and generates once",
        ("batch", "side", "peak resident", "of it libraries", "GPU, driver's", "GPU, PyTorch's peak"),
        tuple(rows),
        2,
    )


def _reached_table(reached: Reached | None) -> tuple[str, ...]:
    if reached is None:
        return (NOTHING,) * 4
    rate = f"{scaled(reached.flops_per_second)}"
    return (scaled(reached.flops), readable(reached.bytes), rate, f"{reached.share:.0%} ({reached.bound_by})")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.4g}"
