"""Plots a benchmark: latencies with their spread, speed-up against batch size, and the roofline.

All plots have one look: readable at the width of a README, told apart by colour-blind readers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from himar_kernels.shared.files import new_file

from ..cost.cost import Peaks
from .measurement import COMPILED, EAGER, EAGER_FP32, ENGINES
from .roofline import Reached
from .run import BenchReport

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # of Okabe and Ito's palette
_STYLE: Any = {"font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}

_COLOURS = {EAGER: GREY, EAGER_FP32: GREEN, COMPILED: ORANGE, ENGINES: BLUE}
_MARKERS = "osD^vPX*"


def draw_all(report: BenchReport, folder: Path) -> list[Path]:
    """Write latency.png, speedup.png and roofline.png into a folder, made if need be; none where nothing was timed.

    Without a split of eager's time there is no roofline. Raises InputError when a file cannot be written.
    """
    timed = [each for each in report.generations if each.measurement.ratios]
    if not timed:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    figure, (axes,) = panels(1, width=6.5)
    _latency(axes, report)
    paths = [save(figure, folder / "latency.png")]
    figure, (axes,) = panels(1, width=5.5)
    _speedup(axes, report)
    paths.append(save(figure, folder / "speedup.png"))
    if any(each.reached for each in timed):
        figure, (axes,) = panels(1, width=6.5, height=4.4)
        _roofline(axes, report)
        paths.append(save(figure, folder / "roofline.png"))
    return paths


def _latency(axes: Axes, report: BenchReport) -> None:
    """Bars of medians; whiskers from the least to the largest repetition."""
    sides = [side for side in _COLOURS if any(side in each.measurement.times for each in report.generations)]
    width = 0.8 / len(sides)
    for number, side in enumerate(sides):
        places, medians, low, high = [], [], [], []
        for place, generation in enumerate(report.generations):
            timed = generation.measurement.times.get(side)
            if timed is not None:
                per = generation.measurement.batch
                places.append(place + (number - (len(sides) - 1) / 2) * width)
                medians.append(timed.summary.median / per)
                low.append((timed.summary.median - min(timed.seconds)) / per)
                high.append((max(timed.seconds) - timed.summary.median) / per)
        axes.bar(places, medians, width * 0.92, yerr=[low, high], capsize=3, color=_COLOURS[side], label=side)
    axes.set_xticks(range(len(report.generations)), [str(each.measurement.batch) for each in report.generations])
    axes.set(xlabel="batch", ylabel="seconds per image", title="Median, smallest and largest")
    axes.legend(frameon=False)


def _speedup(axes: Axes, report: BenchReport) -> None:
    """How many times faster the engines are than each other side, with the interval; open where inconclusive."""
    for side in (EAGER, EAGER_FP32, COMPILED):
        found = [(each.measurement.batch, each.measurement.ratios[side]) for each in report.generations
                 if side in each.measurement.ratios]  # fmt: skip
        if not found:
            continue
        batches, values = [batch for batch, _ in found], [ratio.value for _, ratio in found]
        axes.plot(batches, values, color=_COLOURS[side], label=f"against {side}")
        for batch, ratio in found:
            face = _COLOURS[side] if ratio.conclusive else "white"
            axes.plot([batch], [ratio.value], "o", color=_COLOURS[side], markerfacecolor=face)
            if ratio.low is not None and ratio.high is not None:
                axes.plot([batch, batch], [ratio.low, ratio.high], color=_COLOURS[side], linewidth=2.5, alpha=0.6)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    batches = [each.measurement.batch for each in report.generations]
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="batch", ylabel="times as fast", title="Engines; bars are 95 % intervals, open is inconclusive")
    axes.legend(frameon=False)


def _roofline(axes: Axes, report: BenchReport) -> None:
    """The engines' components between the peaks: operations per byte against operations per second."""
    points: list[tuple[str, int, Reached]] = []
    for generation in report.generations:
        points += [(name, generation.measurement.batch, each) for name, each in generation.reached.items()]
    intensities = [each.flops / each.bytes for _, _, each in points]
    _roof(axes, report.peaks, min(intensities) / 3, max(intensities) * 3)
    batches = sorted({batch for _, batch, _ in points})
    for number, name in enumerate(dict.fromkeys(name for name, _, _ in points)):
        own = [(batch, each) for known, batch, each in points if known == name]
        x, y = [each.flops / each.bytes for _, each in own], [each.flops_per_second for _, each in own]
        sizes = [30 + 25 * batches.index(batch) for batch, _ in own]
        axes.scatter(x, y, s=sizes, marker=_MARKERS[number % len(_MARKERS)], label=name, zorder=3)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="operations per second")
    axes.set_title("Engines in a generation; larger marks are larger batches")
    axes.legend(frameon=False, fontsize=9)


def _roof(axes: Axes, peaks: Peaks, low: float, high: float) -> None:
    if peaks.flops_per_second is None or peaks.bytes_per_second is None:
        return
    ridge = peaks.flops_per_second / peaks.bytes_per_second
    x = np.geomspace(min(low, ridge / 2), max(high, ridge * 2), 200)
    roof = np.minimum(peaks.flops_per_second, x * peaks.bytes_per_second)
    axes.plot(x, roof, color="black", linewidth=1, label="peaks, measured")


def panels(
    count: int, width: float = 9.0, height: float = 3.9, rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels in rows of as many each, and these row by row; width and height in inches."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, list(figure.subplots(rows, count // rows, squeeze=False, **options).flat)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG in one move, without what changes from run to run."""
    with rc_context(_STYLE), new_file(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110, metadata={"Software": None})
    return path
