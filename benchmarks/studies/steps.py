"""Measures digits over the autoregressive steps of each phase, the other phase's fixed: the paper's figure 4.

Run from the repository, after `make demo`; about 40 minutes of one core:

    python -m benchmarks.studies.steps demo/digits --out docs/steps/digits

Writes digits.json, digits.md and digits.png (`benchmarks.studies.study`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.studies.report import draw_default, draw_points, table, work
from benchmarks.studies.study import DEFAULT, Setting, Study, complete, run, study_options
from himar_kernels.shared.console import run_cli

LOW, HIGH = 8, 2
"""The digits preset's steps; each stays while the other phase's vary."""


@dataclass(frozen=True)
class Steps(Setting):
    """A setting of the study, by its autoregressive steps in each phase."""

    low: int
    high: int


def steps(low: int, high: int) -> Steps:
    """Return the setting of these steps, all else as the bundle has it."""
    name = DEFAULT if (low, high) == (LOW, HIGH) else f"{low} + {high} steps"
    return Steps(name, {"low_steps": low, "high_steps": high}, low, high)


LOW_STEPS = [steps(low, HIGH) for low in (1, 2, 4, 8, 16)]
"""As many as the digits have low positions, 16, at most."""

HIGH_STEPS = [steps(LOW, high) for high in (1, 2, 3, 4, 8, 16)]


def settings() -> list[Steps]:
    """Return all settings, the default first, which is in both series."""
    default = steps(LOW, HIGH)
    return [default, *(each for each in LOW_STEPS + HIGH_STEPS if each != default)]


def tables(record: Mapping[str, Any]) -> str:
    """Return a table per phase as Markdown."""
    return "\n".join(
        f"{LOW} + {HIGH} steps are the default; {fixed}.\n\n{table(record, series, ['distance'])}"
        for fixed, series in (
            (f"here phase high takes {HIGH}", LOW_STEPS),
            (f"here phase low takes {LOW}", HIGH_STEPS),
        )
    )


def plot(path: Path, record: Mapping[str, Any]) -> Path:
    """Draw distance, and below it precision and recall, over the steps of each phase, with their work."""
    from himar_export.bench.plots import BLUE, GREEN, GREY, ORANGE, panels, save

    figure, axes = panels(4, width=10.5, height=6.6, rows=2, sharex="col", sharey="row")
    figures = (
        ("distance: lower is better", {"distance": (BLUE, "o")}),
        ("higher is better", {"precision": (ORANGE, "D"), "recall": (GREEN, "^")}),
    )
    for column, (phase, series) in enumerate((("low", LOW_STEPS), ("high", HIGH_STEPS))):
        measured = complete(record, series)
        x = [float(getattr(each, phase)) for each in measured]
        for panel, (_, styles) in zip(axes[column::2], figures, strict=True):
            for name, (colour, marker) in styles.items():
                draw_points(panel, x, record, measured, name, fmt=f"{marker}-", color=colour, label=name)
                draw_default(panel, record, name, colour)
        labels = [f"{each:g}\n{work(record, one.name):.0f}%" for each, one in zip(x, measured, strict=True)]
        axes[column + 2].set_xscale("log", base=2)
        axes[column + 2].set_xticks(x, labels)
        axes[column + 2].set_xlabel(f"autoregressive steps in phase {phase}, and FLOPs, % of the default's")
    axes[0].set_title(f"Phase low; {HIGH} steps in phase high")
    axes[1].set_title(f"Phase high; {LOW} steps in phase low")
    for panel, (label, _) in zip(axes[::2], figures, strict=True):
        panel.set_ylabel(label)
    entries = [entry for panel in axes[::2] for entry in zip(*panel.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*entries, strict=True), loc="outside lower center", ncols=len(entries), frameon=False)
    figure.suptitle(
        f"{record['images']} images of each of {record['seeds']} seeds; bars: ± standard deviation; "
        f"bands: the default's seeds",
        fontsize=9.5,
        color=GREY,
    )
    return save(figure, path)


STUDY = Study("steps", settings(), tables, plot)


@click.command(epilog="Example: python -m benchmarks.studies.steps demo/digits --out docs/steps/digits")
@study_options
def main(**asked: Any) -> None:
    """Measure or time the digits BUNDLE over the autoregressive steps of each phase."""
    run(STUDY, **asked)


if __name__ == "__main__":
    sys.exit(run_cli(main))
