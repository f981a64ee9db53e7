"""Draws the study of solvers from its record: quality against work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.report import draw_against_work
from benchmarks.studies.solvers_settings import trials
from benchmarks.studies.study import complete


def plot(path: Path, record: Mapping[str, Any]) -> Path:
    """Draw distance, precision and recall against work, one colour and marker per solver, bars of ± deviation."""
    from himar_export.bench.plots import BLUE, GREEN, GREY, ORANGE, panels, save

    styles = {"ddpm": (GREY, "s"), "ddim": (ORANGE, "D"), "dpm++": (BLUE, "o"), "ddpm + dpm++": (GREEN, "^")}
    figure, axes = panels(3, width=12.5, height=4.1)
    measured = complete(record, trials())
    draw_against_work(axes, record, measured, "solver", styles, GREY)
    for panel in axes:
        panel.axvline(20, color=GREY, linestyle=":", linewidth=1)
    axes[-1].legend(frameon=False, loc="lower right")
    figure.suptitle(
        f"{record['images']} images of each of {record['seeds']} seeds; band: the default's seeds; dotted: a fifth",
        fontsize=9.5,
        color=GREY,
    )
    return save(figure, path)
