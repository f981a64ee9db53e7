"""Writes the table and the plot of the study of solvers, from its JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.solvers_settings import DEFAULT, trials

FIGURES = {"distance": "distance", "precision": "precision", "recall": "recall", "recognised": "recognised, %"}
_HIGHER_IS_BETTER = ("precision", "recall", "recognised")
_ROUNDING = 1e-9  # of a mean of equal values


def values(study: Mapping[str, Any], name: str, figure: str) -> list[float]:
    """Return a figure of a setting, one value per seed; shares recognised in per cent."""
    factor = 100.0 if figure == "recognised" else 1.0
    return [factor * point[figure] for point in study["points"][name].values()]


def worse(study: Mapping[str, Any], name: str) -> list[str]:
    """Return the figures whose mean over a setting's seeds is worse than the default's worst seed."""
    found = []
    for figure in FIGURES:
        mean, usual = statistics.fmean(values(study, name, figure)), values(study, DEFAULT, figure)
        beyond = min(usual) - mean if figure in _HIGHER_IS_BETTER else mean - max(usual)
        if beyond > _ROUNDING:
            found.append(figure)
    return found


def table(study: Mapping[str, Any]) -> str:
    """Return the table as Markdown: one row per measured setting, mean ± standard deviation over the seeds."""
    usual = study["flops"][DEFAULT]
    headings = ["setting", "FLOPs", "seconds", *FIGURES.values(), "worse than the default's seeds in"]
    lines = [_row(headings), _row(["---"] + ["---:"] * (len(headings) - 2) + ["---"])]
    for trial in trials():
        if len(study["points"].get(trial.name, {})) < study["seeds"]:
            continue
        seconds = study["seconds"].get(trial.name)
        cells = [trial.name, f"{study['flops'][trial.name] / usual:.1%}", "" if seconds is None else f"{seconds:.1%}"]
        cells += [_spread(figure, values(study, trial.name, figure)) for figure in FIGURES]
        lines.append(_row([*cells, "" if trial.name == DEFAULT else ", ".join(worse(study, trial.name)) or "nothing"]))
    floor = study["held_out"]
    real = [_spread(figure, [floor[figure] * (100.0 if figure == "recognised" else 1.0)]) for figure in FIGURES]
    lines.append(_row([f"{floor['images']} real held-out digits", "", "", *real, ""]))
    return "\n".join(lines) + "\n"


def plot(path: Path, study: Mapping[str, Any]) -> Path:
    """Draw distance and recognised share against work, one colour and marker per solver, bars of ± deviation."""
    from himar_export.bench.plots import BLUE, GREEN, GREY, ORANGE, panels, save

    styles = {"ddpm": (GREY, "s"), "ddim": (ORANGE, "D"), "dpm++": (BLUE, "o"), "ddpm + dpm++": (GREEN, "^")}
    figure, axes = panels(3, width=12.5, height=4.1)
    measured = [trial for trial in trials() if len(study["points"].get(trial.name, {})) == study["seeds"]]
    usual = study["flops"][DEFAULT]
    titles = ("Distance to real digits: lower is better", "Precision: higher is better", "Recall: higher is better")
    for panel, (name, title) in zip(axes, zip(("distance", "precision", "recall"), titles, strict=True), strict=True):
        for solver, (colour, marker) in styles.items():
            points = [trial for trial in measured if trial.solver == solver]
            if points:
                found = [values(study, trial.name, name) for trial in points]
                work = [100 * study["flops"][trial.name] / usual for trial in points]
                means, deviations = [statistics.fmean(each) for each in found], [_deviation(each) for each in found]
                panel.errorbar(work, means, deviations, fmt=marker, color=colour, capsize=2, markersize=5, label=solver)
        default = values(study, DEFAULT, name)
        panel.axhspan(min(default), max(default), color=GREY, alpha=0.25, linewidth=0)
        panel.axvline(20, color=GREY, linestyle=":", linewidth=1)
        panel.set_xlabel("work, % of the default's FLOPs")
        panel.set_title(title)
        panel.grid(color="#dddddd", linewidth=0.7)
        panel.set_axisbelow(True)
    axes[0].set_yscale("log")
    axes[0].set_yticks([20, 30, 50, 100, 200, 400])
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.minorticks_off()
    axes[-1].legend(frameon=False, loc="lower right")
    figure.suptitle(
        f"{study['images']} images of each of {study['seeds']} seeds; band: the default's seeds; dotted: a fifth",
        fontsize=9.5,
        color=GREY,
    )
    return save(figure, path)


def _spread(figure: str, found: Sequence[float]) -> str:
    digits = 1 if figure in ("distance", "recognised") else 3
    mean = f"{statistics.fmean(found):.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ± {_deviation(found):.{digits}f}"


def _deviation(found: Sequence[float]) -> float:
    return statistics.stdev(found) if len(found) > 1 else 0.0


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
