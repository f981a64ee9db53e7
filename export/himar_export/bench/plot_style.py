"""Gives all plots one look: readable at the width of a README, told apart by colour-blind readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from himar_kernels.shared.files import new_file

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # of Okabe and Ito's palette
_STYLE: Any = {"font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}


def panels(count: int, width: float = 9.0, height: float = 3.9, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels side by side; width and height in inches."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG in one move, without what changes from run to run."""
    with rc_context(_STYLE), new_file(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110, metadata={"Software": None})
    return path
