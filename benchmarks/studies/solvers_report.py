"""Draws the study of solvers from its record: quality against work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.report import draw_default, draw_points, log_scale, work
from benchmarks.studies.solvers_settings import trials
from benchmarks.studies.study import complete


def plot(path: Path, record: Mapping[str, Any]) -> Path:
    """Draw distance, precision and recall against work, one colour and marker per solver, bars of ± deviation."""
    from himar_export.bench.plots import BLUE, GREEN, GREY, ORANGE, panels, save

    styles = {"ddpm": (GREY, "s"), "ddim": (ORANGE, "D"), "dpm++": (BLUE, "o"), "ddpm + dpm++": (GREEN, "^")}
    figure, axes = panels(3, width=12.5, height=4.1)
    measured = complete(record, trials())
    titles = ("Distance to real digits: lower is better", "Precision: higher is better", "Recall: higher is better")
    for panel, (name, title) in zip(axes, zip(("distance", "precision", "recall"), titles, strict=True), strict=True):
        for solver, (colour, marker) in styles.items():
            points = [trial for trial in measured if trial.solver == solver]
            if points:
                x = [work(record, trial.name) for trial in points]
                draw_points(panel, x, record, points, name, fmt=marker, color=colour, label=solver)
        draw_default(panel, record, name, GREY)
        panel.axvline(20, color=GREY, linestyle=":", linewidth=1)
        panel.set_xlabel("work, % of the default's FLOPs")
        panel.set_title(title)
    log_scale(axes[0], [20, 30, 50, 100, 200, 400])
    axes[-1].legend(frameon=False, loc="lower right")
    figure.suptitle(
        f"{record['images']} images of each of {record['seeds']} seeds; band: the default's seeds; dotted: a fifth",
        fontsize=9.5,
        color=GREY,
    )
    return save(figure, path)
