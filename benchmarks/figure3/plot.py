"""Plots figure 3: seconds per image on this device, and as shares of MAR-B's beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes

from benchmarks.figure3.points import HIGH_STEPS
from benchmarks.figure3.rows import AGAINST, AGAINST_STEPS, Row, published_rows, relative, rows_of, seconds_of
from himar_export.bench.measurement import COMPILED, EAGER, EAGER_FP32, ENGINES
from himar_export.bench.plots import BLUE, GREEN, GREY, ORANGE, panels, save

_COLOURS = {EAGER: GREY, EAGER_FP32: GREEN, COMPILED: ORANGE, ENGINES: BLUE, "published": "black"}
_NAMES = {"himar-b": "Hi-MAR-B", "mar-b": "MAR-B"}
_STYLES = ("o-", "s--", "D:", "^-.")


def draw(content: Mapping[str, Any], path: Path) -> Path:
    """Write the plot. Raises InputError when it cannot be written."""
    rows = rows_of(content)
    against = bool(relative(rows, EAGER))
    figure, axes = panels(2 if against else 1, width=9.6 if against else 5.6, height=4.2)
    sides = [side for side in _COLOURS if any(seconds_of(row, side) is not None for row in rows)]
    on_gpu = content["request"]["device"] != "cpu"
    absolute = [side for side in sides if side != "published" or on_gpu]
    models = list(dict.fromkeys(row.model for row in rows))
    for side in absolute:
        values = {(row.model, row.steps): value for row in rows if (value := seconds_of(row, side)) is not None}
        _lines(axes[0], rows, values, side, models)
    where = content["environment"].get("gpu") or content["environment"]["processor"]
    threads = "" if on_gpu else f", {content['threads']} threads"
    axes[0].set(ylabel="seconds per image", title=f"{where}{threads}, batch {content['request']['batch']}")
    _finish(axes[0], rows)
    if against:
        others = [model for model in models if model != AGAINST]
        for side in sides:
            shown = published_rows() if side == "published" else rows
            shares = {(row.model, row.steps): value for row, value in relative(shown, side) if row.model != AGAINST}
            _lines(axes[1], shown, shares, side, others)
        base = f"{_NAMES.get(AGAINST, AGAINST)}, {AGAINST_STEPS} steps"
        axes[1].axhline(1, color="black", linewidth=0.7)
        axes[1].annotate(base, (1, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8.5)
        axes[1].set(ylabel="share of its seconds", title=f"By {base}, each on its own device")
        _finish(axes[1], [row for row in rows if row.model != AGAINST], "linear")
    return save(figure, path)


def _lines(axes: Axes, rows: list[Row], values: Mapping[tuple[str, int], float], side: str, models: list[str]) -> None:
    for number, model in enumerate(models):
        own = [
            (row.steps, values[model, row.steps]) for row in rows if row.model == model and (model, row.steps) in values
        ]
        if own:
            steps, seconds = zip(*own, strict=True)
            name = f"{_NAMES.get(model, model)}, {'paper, H100' if side == 'published' else side}"
            axes.plot(steps, seconds, _STYLES[number % len(_STYLES)], color=_COLOURS[side], label=name, markersize=5)


def _finish(axes: Axes, rows: list[Row], scale: Literal["linear", "log"] = "log") -> None:
    steps = sorted({row.steps for row in rows})
    if scale == "log":
        axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(each) for each in steps])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps of phase high" if set(steps) <= set(HIGH_STEPS) else "steps (Hi-MAR: of phase high)")
    axes.legend(frameon=False, fontsize=8.5)
