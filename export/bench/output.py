"""A benchmark's report on the terminal, as Markdown and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from himar_kernels.files import write_text

from .measurement import Measurement
from .roofline import Reached
from .run import BenchReport, ComponentResult, Generation
from .sheets import Sheet, component_verdicts, heading, notes, sheets, verdicts


def print_report(report: BenchReport) -> None:
    """Print the tables without empty columns, the verdicts and the notes."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(heading(report), highlight=False, markup=False, soft_wrap=True)
    for sheet in sheets(report):
        console.print(_table(sheet.short()))
    for line in (*verdicts(report), *notes(report)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def write_markdown(report: BenchReport, path: Path) -> None:
    """Write the same, with all columns, and the environment. Raises InputError when the file cannot be written."""
    lines = [f"# {heading(report)}", ""]
    for sheet in sheets(report):
        lines += [f"## {sheet.title}", "", *_markdown(sheet), ""]
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
                **asdict(split),
                "host": split.host,
                "phases": {phase: split.of_phase(phase) for phase in ("low", "high", "decode")},
            }
            for side, split in generation.splits.items()
        },
        "reached": {name: _reached(each) for name, each in generation.reached.items()},
        "split_whole": _reached(generation.split_whole),
        "whole": _reached(generation.whole),
        "memory": {side: asdict(memory) for side, memory in generation.memory.items()},
        "memory_error": generation.memory_error,
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


def _table(sheet: Sheet) -> Table:
    table = Table(title=sheet.title, title_justify="left")
    for number, name in enumerate(sheet.headings):
        table.add_column(name, justify="left" if number < sheet.words else "right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*row)
    return table


def _markdown(sheet: Sheet) -> list[str]:
    rule = ["---" if number < sheet.words else "---:" for number in range(len(sheet.headings))]
    return [f"| {' | '.join(cells)} |" for cells in (sheet.headings, rule, *sheet.rows)]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
