"""Turns what benchmarks wrote (a table in Markdown beside its plot and its JSON) into pages with title and plot."""

from __future__ import annotations

from pathlib import Path

RECORDS = {
    "figure3/cpu.md": ("Record: seconds per image on a CPU", "benchmarking.md"),
    "figure3/cpu-int8.md": ("Record: seconds per image on a CPU, int8", "benchmarking.md"),
    "figure3/digits.md": ("Record: seconds per image, digits", "benchmarking.md"),
    "ablation/ablation.md": ("Record: the paper's variants on digits", "training.md"),
    "int8/int8.md": ("Record: quality in int8", "int8.md"),
    "fp8/fp8.md": ("Record: quality in fp8", "fp8.md"),
    "forecast/digits.md": ("Record: forecasts on digits", "forecast.md"),
    "solvers/digits.md": ("Record: solvers on digits", "solvers.md"),
    "steps/digits.md": ("Record: autoregressive steps on digits", "steps.md"),
}
"""A record's place, its title, and the page that explains it."""


def record_page(place: str, text: str, folder: Path) -> str:
    """Return a record as a page. folder: docs/, where its plot and its JSON lie beside it."""
    title, explained = RECORDS[place]
    body = "\n".join(line for line in text.splitlines() if not line.startswith("# "))
    stem = Path(place).with_suffix("")
    plot = f"![{title}]({stem.name}.png)\n\n" if (folder / f"{stem}.png").exists() else ""
    data = f" Every figure: [{stem.name}.json]({stem.name}.json)." if (folder / f"{stem}.json").exists() else ""
    return f"# {title}\n\nWritten by a benchmark; [what it means](../{explained}).{data}\n\n{plot}{body.strip()}\n"
