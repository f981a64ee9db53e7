"""Writes the ablation's report: all figures as JSON, a Markdown table of means and spreads, a plot of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from benchmarks.studies.ablation_runs import OWN, SHORT
from benchmarks.studies.measure import Figures
from benchmarks.studies.report import row, spread
from himar_export.bench.plots import BLUE, GREY, ORANGE, panels, save
from himar_kernels.shared.files import write_json, write_text

Result = Mapping[str, Any]

TITLES = {
    "single-scale": "single scale, MLP head",
    "visual": "visual pivots, MLP heads",
    "condition": "condition pivots, MLP heads",
    "dit-high": "… DiT head in phase high",
    "dit-both": "… DiT heads in both",
    "scale-vector": "… and scale vector",
}
PAPER_FID = {
    "single-scale": 2.31,
    "visual": 2.28,
    "condition": 2.07,
    "dit-high": 1.98,
    "dit-both": 1.98,
    "scale-vector": 1.93,
}
"""ImageNet-256, 50,000 images (the paper's table 5)."""


def write_report(out: Path, results: Sequence[Result], floor: Figures) -> list[Path]:
    """Write ablation.json, ablation.md and ablation.png of at least one run to a folder and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    data, table = out / "ablation.json", out / "ablation.md"
    content = {"held_out": floor.to_dict(), "runs": [dict(result) for result in results]}
    write_json(data, content)
    write_text(table, markdown(results, floor))
    return [data, table, plot(out / "ablation.png", results, floor)]


def markdown(results: Sequence[Result], floor: Figures) -> str:
    """Return the table: a row per variant, mean ± standard deviation over its seeds."""
    budget = results[0]["budget"]
    lines = [
        f"{budget['steps']} training steps of {budget['batch']} images, {budget['images']} images measured per run; "
        f"mean ± standard deviation over seeds. Real held-out digits: distance {floor.distance:.1f}, "
        f"precision {floor.precision:.2f}, recall {floor.recall:.2f}, recognised {100 * floor.recognised:.1f} %.",
        "",
        "| variant | parameters | seeds | steps low + high | distance | precision | recall | recognised, % "
        "| distance at 10 steps | recognised at 10 steps, % | paper's FID, ImageNet |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, runs in by_variant(results).items():
        own = runs[0]["samplings"][OWN]
        low = 0 if variant == "single-scale" else own["low_steps"]
        cells = [
            TITLES[variant],
            f"{runs[0]['parameters'] / 1e6:.2f} M",
            str(len(runs)),
            f"{low} + {own['high_steps']}",
            spread(values(runs, OWN, "distance"), 1),
            spread(values(runs, OWN, "precision"), 2),
            spread(values(runs, OWN, "recall"), 2),
            spread(values(runs, OWN, "recognised", 100), 1),
            spread(values(runs, SHORT, "distance"), 1),
            spread(values(runs, SHORT, "recognised", 100), 1),
            f"{PAPER_FID[variant]:.2f}",
        ]
        lines.append(row(cells))
    return "\n".join(lines) + "\n"


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Group runs by variant, in the table's order; variants without a run are left out."""
    groups = {variant: [result for result in results if result["variant"] == variant] for variant in TITLES}
    return {variant: runs for variant, runs in groups.items() if runs}


def values(runs: Sequence[Result], steps: str, figure: str, factor: float = 1.0) -> list[float]:
    """Return one figure of every run, at the variant's own or the short sampling."""
    return [factor * run["figures"][steps][figure] for run in runs]


def plot(path: Path, results: Sequence[Result], floor: Figures) -> Path:
    """Draw distance and recognised share: a dot per run, a bar at each mean, held-out digits as a line."""
    groups = by_variant(results)
    figure, (distance, recognised) = panels(2, sharey=True)
    _rows(distance, groups, "distance", 1.0, floor.distance)
    _rows(recognised, groups, "recognised", 100.0, 100 * floor.recognised)
    budget = results[0]["budget"]
    distance.set_yticks(range(len(groups)), [TITLES[variant] for variant in groups])
    distance.invert_yaxis()
    distance.set_xlim(left=0)
    distance.set_title("Distance to real digits: lower is better")
    distance.set_xlabel("Fréchet distance, classifier's features")
    recognised.set_title("Shows the digit asked for: higher is better")
    recognised.set_xlabel("recognised, % of images")
    handles, labels = distance.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"{budget['steps']} training steps of {budget['batch']} images; {budget['images']} images measured per run; "
        f"a dot per seed, a bar at the mean",
        fontsize=9.5,
        color=GREY,
    )
    return save(figure, path)


def _rows(axes: Axes, groups: Mapping[str, Sequence[Result]], name: str, factor: float, floor: float) -> None:
    sets = ((OWN, BLUE, "o", -0.13, "own sampling steps"), (SHORT, ORANGE, "D", 0.13, "10 sampling steps"))
    for steps, colour, marker, offset, label in sets:
        for place, runs in enumerate(groups.values()):
            if steps == SHORT and runs[0]["samplings"][OWN] == runs[0]["samplings"][SHORT]:
                continue
            numbers = values(runs, steps, name, factor)
            heights = [place + offset] * len(numbers)
            axes.plot(numbers, heights, marker, color=colour, alpha=0.65, markersize=5.5, label=label, zorder=3)
            label = "_nolegend_"
            axes.plot([mean(numbers)] * 2, [place + offset - 0.11, place + offset + 0.11], color=colour, linewidth=2.5)
    axes.axvline(floor, color=GREY, linestyle="--", linewidth=1.2, label="real held-out digits")
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
