"""Prints what `debug` found: a table of layers, the verdict in sentences, and what to give `build`; or all as JSON."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..graph.emulate import OUTPUT
from ..report import print_json
from .choices import EMULATE
from .run import DebugReport
from .runs import LayerError

_SHOWN = 12
"""Layers that the short table has: those with the largest errors of their own, beside the first beyond the limit."""


def print_report(report: DebugReport, every: bool) -> None:
    """Print the table and the verdict. every: all layers, not only those that matter."""
    shown = report.layers if every else _that_matter(report)
    table = Table(
        title=escape(f"{report.component} in {report.precision}, {_by(report)}, against {report.against}"),
        title_justify="left",
    )
    table.add_column("layer", no_wrap=True)
    table.add_column("")
    for heading in ("error", "its own", "largest"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for each in shown:
        table.add_row(
            escape(each.name),
            f"{each.precision} {each.kind}",
            _number(each.error),
            "–" if each.own is None else _number(each.own),
            f"{each.largest:.3g}",
            _remark(each, report),
        )
    Console().print(table)
    if len(report.layers) < report.layers_in_all:
        click.echo(f"{report.layers_in_all - len(report.layers)} more layers have no value in both.")
    if len(shown) < len(report.layers):
        click.echo(f"{len(shown)} of {len(report.layers)} layers and outputs; --all shows every one.")
    for line in verdict(report):
        click.echo(line)


def print_report_json(report: DebugReport) -> None:
    """Print the report as JSON; `fp32_layers` is what `build --fp32-layers FILE` takes."""
    kept = report.kept
    layers = [] if kept is None or kept.layers is None else list(kept.layers)
    print_json(
        {**_fields(report), "passed": report.passed, "fp32_layers": {report.component: layers} if layers else {}}
    )


def verdict(report: DebugReport) -> list[str]:
    """Return what was found, in sentences."""
    named = {each.name: each for each in report.layers}
    lines = []
    if report.eager_error is not None:
        lines.append(f"The reference's outputs are {_number(report.eager_error)} from PyTorch's.")
    if report.first is None:
        lines.append(f"No layer leaves the reference by more than {report.limit:.0e}.")
    else:
        first = named[report.first]
        lost = next((each.name for each in report.layers if each.lost), None)
        lines.append(f"{first.name} is the first layer beyond {report.limit:.0e}: {_number(first.error)}.")
        if lost is not None:
            lines.append(f"{lost} is the first with {named[lost].lost}.")
        if report.culprit is not None and report.culprit != first.name:
            lines.append(f"{report.culprit} is the first whose own error is: {_number(named[report.culprit].own)}.")
        if report.culprit is None and report.runner == EMULATE:
            lines.append("No layer's own error is: many small ones add up.")
        elif report.culprit is None:
            lines.append(f"In emulation no layer's own error is: look at what {report.runner} makes of {first.name}.")
    end = "within" if report.passed else "beyond"
    lines.append(f"The outputs are {_number(report.output_error)} from the reference, {end} the limit.")
    if report.engine_error is not None:
        lines.append(f"The bundle's own engine, nothing marked, is {_number(report.engine_error)} from it.")
    return lines + _advice(report)


def _advice(report: DebugReport) -> list[str]:
    kept = report.kept
    if kept is None or report.passed:
        return []
    if kept.layers is None:
        return [
            f"With all its layers in float32 the error is still {_number(kept.error)}: precision is not what is wrong."
        ]
    count = f"{len(kept.layers)} layer{'s' if len(kept.layers) > 1 else ''}"
    return [
        f"With {count} in float32 the error is {_number(kept.error)} ({kept.trials} mixtures computed). Build with:",
        f"  --fp32-layers {report.component}={','.join(kept.layers)}",
    ]


def _that_matter(report: DebugReport) -> list[LayerError]:
    """The layers with the largest own errors, the first beyond the limit, the first lost, and the outputs."""
    ranked = sorted(report.layers, key=lambda each: -(0.0 if each.own is None else each.own))
    chosen = {each.name for each in ranked[:_SHOWN]} | {report.first, report.culprit}
    chosen |= {next((each.name for each in report.layers if each.lost), None)}
    return [each for each in report.layers if each.name in chosen or each.kind == OUTPUT]


def _by(report: DebugReport) -> str:
    return "emulated" if report.runner == EMULATE else f"run by {report.runner}"


def _remark(layer: LayerError, report: DebugReport) -> str:
    marks = [layer.lost] if layer.lost else []
    if layer.name == report.culprit:
        marks.append("[red]by itself[/red]")
    elif layer.name == report.first:
        marks.append("[red]first beyond[/red]")
    return ", ".join(marks)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _fields(report: DebugReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}
