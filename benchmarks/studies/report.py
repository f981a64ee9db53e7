"""Writes what the studies' reports share: means with their spread, rows of Markdown, the table, axes with the default.

A record is that of `benchmarks.studies.study.Study`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.studies.study import DEFAULT, Setting, complete

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = {"distance": "distance", "precision": "precision", "recall": "recall", "recognised": "recognised, %"}
_HIGHER_IS_BETTER = ("precision", "recall", "recognised")
_ROUNDING = 1e-9  # of a mean of equal values


def values(record: Mapping[str, Any], name: str, figure: str) -> list[float]:
    """Return a figure of a setting, one value per seed; shares recognised in per cent."""
    return [_factor(figure) * point[figure] for point in record["points"][name].values()]


def work(record: Mapping[str, Any], name: str) -> float:
    """Return a setting's share of the default's FLOPs, in per cent."""
    return float(100 * record["flops"][name] / record["flops"][DEFAULT])


def worse(record: Mapping[str, Any], name: str) -> list[str]:
    """Return the figures whose mean over a setting's seeds is worse than the default's worst seed."""
    found = []
    for figure in FIGURES:
        mean, usual = statistics.fmean(values(record, name, figure)), values(record, DEFAULT, figure)
        gap = min(usual) - mean if figure in _HIGHER_IS_BETTER else mean - max(usual)
        if gap > _ROUNDING:
            found.append(figure)
    return found


def beyond(record: Mapping[str, Any], name: str, figure: str) -> list[float]:
    """Return what a figure of a setting exceeds the default's of the same seed by, one value per seed.

    Settings of one seed have the same draws, so these differ less from seed to seed than the figures do.
    """
    points, usual = record["points"][name], record["points"][DEFAULT]
    return [_factor(figure) * (point[figure] - usual[seed][figure]) for seed, point in points.items()]


def table(record: Mapping[str, Any], settings: Sequence[Setting], differences: Sequence[str] = ()) -> str:
    """Return the table as Markdown: one row per measured setting, mean ± standard deviation over the seeds.

    differences: figures that have a column for what exceeds the default's of the same seed, too. There is no column of
    seconds where nothing was timed.
    """
    timed = ["seconds"] if record["seconds"] else []
    over = [f"{FIGURES[figure]}, over the default's of the seed" for figure in differences]
    headings = ["setting", "FLOPs", *timed, *FIGURES.values(), *over, "worse than the default's seeds in"]
    lines = [row(headings), row(["---"] + ["---:"] * (len(headings) - 2) + ["---"])]
    for name in (setting.name for setting in complete(record, settings)):
        seconds = record["seconds"].get(name)
        cells = [name, f"{work(record, name):.1f}%"]
        cells += ["" if seconds is None else f"{seconds:.1%}"] if timed else []
        cells += [spread(values(record, name, figure), _digits(figure)) for figure in FIGURES]
        cells += [
            "" if name == DEFAULT else spread(beyond(record, name, figure), _digits(figure), sign="+")
            for figure in differences
        ]
        lines.append(row([*cells, "" if name == DEFAULT else ", ".join(worse(record, name)) or "nothing"]))
    floor = record["held_out"]
    real = [spread([_factor(figure) * floor[figure]], _digits(figure)) for figure in FIGURES]
    lines.append(
        row([f"{floor['images']} real held-out digits", "", *("" for _ in timed), *real, *("" for _ in over), ""])
    )
    return "\n".join(lines) + "\n"


def spread(found: Sequence[float], digits: int, sign: Literal["-", "+"] = "-") -> str:
    """Return "mean ± standard deviation"; of one value the value alone. sign: "+" writes a positive mean's too."""
    mean = f"{statistics.fmean(found):{sign}.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ± {deviation(found):.{digits}f}"


def deviation(found: Sequence[float]) -> float:
    """Return the standard deviation, 0 of one value."""
    return statistics.stdev(found) if len(found) > 1 else 0.0


def row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def draw_points(
    axes: Axes, x: Sequence[float], record: Mapping[str, Any], settings: Sequence[Setting], figure: str, **style: Any
) -> None:
    """Draw a figure of settings over x: the mean over seeds, a bar of ± the standard deviation."""
    found = [values(record, setting.name, figure) for setting in settings]
    means, deviations = [statistics.fmean(each) for each in found], [deviation(each) for each in found]
    axes.errorbar(x, means, deviations, capsize=2, markersize=5, **style)


def draw_default(axes: Axes, record: Mapping[str, Any], figure: str, colour: str) -> None:
    """Draw the range of a figure over the default's seeds as a band, and a grid behind everything."""
    usual = values(record, DEFAULT, figure)
    axes.axhspan(min(usual), max(usual), color=colour, alpha=0.25, linewidth=0)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)


def draw_against_work(
    axes: Sequence[Axes],
    record: Mapping[str, Any],
    settings: Sequence[Setting],
    kind: str,
    styles: Mapping[str, tuple[str, str]],
    grey: str,
) -> None:
    """Draw distance, precision and recall over the share of the default's FLOPs, one to each of three axes.

    kind: the attribute of a setting that its style goes by; styles: colour and marker of each; grey: of the default's.
    """
    titles = ("Distance to real digits: lower is better", "Precision: higher is better", "Recall: higher is better")
    for panel, name, title in zip(axes, ("distance", "precision", "recall"), titles, strict=True):
        for each, (colour, marker) in styles.items():
            points = [setting for setting in settings if getattr(setting, kind) == each]
            if points:
                x = [work(record, setting.name) for setting in points]
                draw_points(panel, x, record, points, name, fmt=marker, color=colour, label=each)
        draw_default(panel, record, name, grey)
        panel.set_xlabel("work, % of the default's FLOPs")
        panel.set_title(title)
    log_scale(axes[0], [20, 30, 50, 100, 200, 400])


def log_scale(axes: Axes, ticks: Sequence[float]) -> None:
    """Show y on a logarithmic scale with these ticks alone."""
    axes.set_yscale("log")
    axes.set_yticks(list(ticks))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.minorticks_off()


def _factor(figure: str) -> float:
    return 100.0 if figure == "recognised" else 1.0


def _digits(figure: str) -> int:
    return 1 if figure in ("distance", "recognised") else 3
