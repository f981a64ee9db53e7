"""Prints `himar-export inspect --cost`: operations, bytes and the shortest time, per component and per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..report import print_json, readable
from .cost import Peaks
from .run import ComponentCost, CostRequest, request_costs, total_cost

_PREFIXES = ("", "k", "M", "G", "T", "P")


def print_costs(request: CostRequest, peaks: Peaks, as_json: bool) -> None:
    """Print the tables, or everything as JSON: whole batches there, in plain units."""
    costs = request_costs(request, peaks)
    if as_json:
        print_json(cost_values(request, peaks, costs))
        return
    total = total_cost(costs)
    console = Console()
    console.print(_title(request), highlight=False, markup=False, soft_wrap=True)
    console.print(_work_table(costs, total, request.batch))
    console.print(_byte_table(costs, total, request.batch))
    if peaks.known:
        console.print(_time_table(costs, total, request.batch))
    for note in _notes(request, total, peaks):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def cost_values(request: CostRequest, peaks: Peaks, costs: Sequence[ComponentCost]) -> dict[str, Any]:
    """Return the JSON: what was asked, and each component's cost for the whole batch. Times are null without a peak."""
    total = total_cost(costs)
    return {
        "batch": request.batch,
        "sampling": request.sampling.to_dict(),
        "precision": dict(request.precision),
        "peaks": peaks,
        "components": [_values(cost, peaks) for cost in costs],
        "total": _values(total, peaks),
        "flops_per_image": total.work.flops / request.batch,
        "bound_seconds_per_image": total.bound_seconds / request.batch if peaks.known else None,
    }


def _values(cost: ComponentCost, peaks: Peaks) -> dict[str, Any]:
    return {
        "component": cost.component,
        "phase": cost.phase,
        "calls": cost.calls,
        "flops": cost.work.flops,
        "eager_flops": cost.eager_flops,
        "released_flops": cost.released_flops,
        "weight_bytes": cost.work.weight_bytes,
        "activation_bytes": cost.work.activation_bytes,
        "compute_seconds": None if peaks.flops_per_second is None else cost.compute_seconds,
        "memory_seconds": None if peaks.bytes_per_second is None else cost.memory_seconds,
        "bound_seconds": cost.bound_seconds if peaks.known else None,
    }


def _title(request: CostRequest) -> str:
    return f"{request.batch} {'images' if request.batch > 1 else 'image'} at once; {request.title}"


def _work_table(costs: Sequence[ComponentCost], total: ComponentCost, batch: int) -> Table:
    table = _table("FLOPs per image", ("calls", "engines", "share", "eager", "released"))
    for cost in (*costs, total):
        _add_row(
            table,
            cost,
            costs,
            str(cost.calls),
            scaled(cost.work.flops / batch),
            f"{cost.work.flops / total.work.flops:.1%}",
            scaled(cost.eager_flops / batch),
            scaled(cost.released_flops / batch),
        )
    return table


def _byte_table(costs: Sequence[ComponentCost], total: ComponentCost, batch: int) -> Table:
    table = _table("Bytes per image, engines", ("weights", "activations", "FLOPs a byte"))
    for cost in (*costs, total):
        moved = (cost.work.weight_bytes, cost.work.activation_bytes)
        intensity = cost.work.flops / cost.work.bytes
        _add_row(table, cost, costs, *(readable(each / batch) for each in moved), f"{intensity:.3g}")
    return table


def _time_table(costs: Sequence[ComponentCost], total: ComponentCost, batch: int) -> Table:
    table = _table("Shortest time per image in ms, engines", ("operations", "bytes", "bound", "share"))
    for cost in (*costs, total):
        seconds = (cost.compute_seconds, cost.memory_seconds, cost.bound_seconds)
        share = f"{cost.bound_seconds / total.bound_seconds:.1%}"
        _add_row(table, cost, costs, *(f"{1e3 * each / batch:.3g}" for each in seconds), share)
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("component", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _add_row(table: Table, cost: ComponentCost, costs: Sequence[ComponentCost], *cells: str) -> None:
    """Add a component, or in bold under a line the total, which is none of `costs`."""
    style = "" if cost in costs else "bold"
    table.add_row(cost.component, *cells, style=style, end_section=cost is costs[-1])


def _notes(request: CostRequest, total: ComponentCost, peaks: Peaks) -> list[str]:
    less = 1 - total.work.flops / total.released_flops
    lines = [
        f"A multiply-add is two. {request.ways}; engines do {abs(less):.1%} {'less' if less >= 0 else 'more'}.",
        "Bytes: every matmul reads its weights and input once and writes its output once; norms, activations and "
        "attention scores stay on the chip.",
        *request.notes,
    ]
    if request.decoder is None:
        lines.append("No VAE decoder is counted: the bundle has none, or none was given with --vae.")
    if peaks.known:
        rate = request.batch / total.bound_seconds
        lines.append(f"At most {rate:.4g} images/s: the sum over all calls of the slower of operations and bytes.")
    return lines


def scaled(value: float) -> str:
    """Return a count with a prefix: 31.16 T."""
    prefix = 0
    while value >= 1000 and prefix < len(_PREFIXES) - 1:
        value, prefix = value / 1000, prefix + 1
    return f"{value:.4g} {_PREFIXES[prefix]}".rstrip()
