"""Prints what the verbs report: tables for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .verify.compare import Comparison

_UNITS = ("B", "kB", "MB", "GB")


def print_outcome(comparisons: Sequence[Comparison], ran: str, bundle: Path, against: str, as_json: bool) -> None:
    """Print a verification, or its JSON. ran: what of the bundle ran, in words."""
    if as_json:
        print_json({"bundle": str(bundle), "ran": ran, "comparisons": comparisons})
        return
    print_comparisons(comparisons, f"{bundle} against {against}")
    click.echo(f"run by {ran}.")


def print_comparisons(comparisons: Sequence[Comparison], title: str) -> None:
    """Print one row per output and the verdict."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("output")
    for heading in ("relative L2", "limit", "max abs", "cosine"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for c in comparisons:
        verdict = {True: "[green]ok[/green]", False: "[red]FAILED[/red]", None: "not compared"}[c.passed]
        limit = "–" if c.limit is None else "exact" if c.limit == 0 else f"{c.limit:.0e}"
        table.add_row(c.name, f"{c.relative_l2:.1e}", limit, f"{c.max_abs:.1e}", f"{c.cosine:.6f}", verdict)
    console = Console()
    console.print(table)
    compared = [c for c in comparisons if c.passed is not None]
    failed = sum(not c.passed for c in compared)
    text = f"{failed} of {len(compared)} outputs differ." if failed else f"all {len(compared)} outputs match."
    if len(compared) < len(comparisons):
        text += (
            f" {len(comparisons) - len(compared)} not compared: a short chain of diffusion steps, or codes that build "
            f"on codes, magnify the rounding of half precision, int8 or fp8 too much."
        )
    console.print(text, style="red" if failed else "green", highlight=False)


def readable(size: float) -> str:
    """Return a size in bytes with a unit: 1.23 MB."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.2f} {_UNITS[unit]}"


def print_json(value: Any) -> None:
    """Print a value as JSON; dataclasses become objects, infinities become null."""
    click.echo(json.dumps(_plain(value), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Comparison):
        return _plain({**dataclasses.asdict(value), "passed": value.passed})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
