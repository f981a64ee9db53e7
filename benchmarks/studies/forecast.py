"""Measures digits whose chains leave evaluations of the heads out, at the paper's chain lengths, against work.

Run from the repository, after `make demo`; about an hour and a half of one core:

    python -m benchmarks.studies.forecast demo/digits --out docs/forecast/digits
    python -m benchmarks.studies.forecast demo/digits --out docs/forecast/digits --time 3    # seconds

Writes digits.json, digits.md and digits.png (`benchmarks.studies.study`). The default is what the released models have,
100 diffusion steps in phase low and 250 in phase high, at the digits' 8 + 2 autoregressive steps.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.studies.report import draw_against_work, table
from benchmarks.studies.study import DEFAULT, Setting, Study, complete, run, study_options
from himar_kernels.families.hi_mar import sampling
from himar_kernels.families.hi_mar.sampling import in_phases
from himar_kernels.shared.console import run_cli

LOW, HIGH = 100, 250
"""Diffusion steps of the released models' chains."""


@dataclass(frozen=True)
class Trial(Setting):
    """A setting of the study. kind: what its colour in the plot goes by."""

    kind: str


def trials() -> list[Trial]:
    """Return all settings, the default first."""
    short = {"low_diffusion_steps": 32}
    eighth = {"low_forecast": 4, "high_forecast": 8}
    return [
        _trial(DEFAULT, "all"),
        _trial("high chain 100", "all", high_diffusion_steps=100),
        _trial("chains of 32", "all", **in_phases("low", "high", diffusion_steps=32)),
        *(_trial(f"N {n}", "forecast", low_forecast=min(n, 8), high_forecast=n) for n in (4, 8, 16)),
        _trial("N 8, high alone", "forecast", high_forecast=8),
        _trial("N 4, 8", "forecast", **eighth),
        _trial("N 4, 8; order 0", "forecast", **eighth, forecast_order=0),
        _trial("N 4; order 2", "forecast", **in_phases("low", "high", forecast=4), forecast_order=2),
        _trial("N 4, 8; order 2", "forecast", **eighth, forecast_order=2),
        _trial("N 4, 8; first 5", "forecast", **eighth, forecast_first=5),
        _trial("N 4, 8; last 1", "forecast", **eighth, forecast_last=1),
        _trial("high chain 100; N 4", "forecast", high_diffusion_steps=100, **in_phases("low", "high", forecast=4)),
        _trial("high chain 100; N 4, 8", "forecast", high_diffusion_steps=100, **eighth),
        _trial("high chain 100; N 4, 8; order 2", "forecast", high_diffusion_steps=100, **eighth, forecast_order=2),
        _trial("P 7", "condition cache", guidance_interval=7),
        *(_trial(f"N 4, 8; P {p}", "both", **eighth, guidance_interval=p) for p in (2, 3)),
        *(_trial(f"N 4, 6; P {p}", "both", low_forecast=4, high_forecast=6, guidance_interval=p) for p in (2, 3)),
        _trial("steps 250, 50", "fewer steps", high_diffusion_counts=(250, 50)),
        _trial(
            "steps 250, 100; N 4, 8; P 2", "all three", high_diffusion_counts=(250, 100), **eighth, guidance_interval=2
        ),
        *(_solver(f"dpm++ {low}, {high}", low, high) for low, high in ((4, 4), (32, 41))),
        _solver("dpm++ 32; N 4", 32, 32, **short, **in_phases("low", "high", forecast=4), forecast_first=4),
    ]


def _trial(name: str, kind: str, **changes: Any) -> Trial:
    return Trial(name, {"low_diffusion_steps": LOW, "high_diffusion_steps": HIGH, **changes}, kind)


def _solver(name: str, low: int, high: int, **changes: Any) -> Trial:
    chains = {"low_diffusion_steps": low, "high_diffusion_steps": high, "temperature": 1.0}
    return Trial(name, {**chains, **in_phases("low", "high", solver="dpm++"), **changes}, "dpm++")


def plot(path: Path, record: Mapping[str, Any]) -> Path:
    """Draw distance, precision and recall against work, one colour and marker per kind, bars of ± deviation."""
    from himar_export.bench.plots import BLUE, GREEN, GREY, ORANGE, panels, save

    styles = {
        "all": (GREY, "s"),
        "forecast": (BLUE, "o"),
        "condition cache": (ORANGE, "D"),
        "both": (GREEN, "^"),
        "fewer steps": ("#b07aa1", "v"),
        "all three": ("#76b7b2", "P"),
        "dpm++": ("#9c755f", "X"),
    }
    figure, axes = panels(3, width=12.5, height=4.4)
    measured = complete(record, trials())
    draw_against_work(axes, record, measured, "kind", styles, GREY)
    for panel in axes:
        panel.set_xscale("log")
        panel.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        panel.minorticks_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(styles), frameon=False)
    figure.suptitle(
        f"{record['images']} images of each of {record['seeds']} seeds; band: the default's seeds",
        fontsize=9.5,
        color=GREY,
    )
    return save(figure, path)


STUDY = Study("forecast", trials(), lambda record: table(record, trials()), plot)


@click.command(epilog="Example: python -m benchmarks.studies.forecast demo/digits --out docs/forecast/digits")
@study_options
def main(**asked: Any) -> None:
    """Measure or time the settings on the digits BUNDLE."""
    refused_from = sampling.WIDEST_SECOND_ORDER
    sampling.WIDEST_SECOND_ORDER = HIGH  # the study shows why wider gaps are refused
    try:
        run(STUDY, **asked)
    finally:
        sampling.WIDEST_SECOND_ORDER = refused_from


if __name__ == "__main__":
    sys.exit(run_cli(main))
