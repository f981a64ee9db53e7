"""Measures digits whose DiT head holds its modulations over several evaluations, at the paper's chains and forecast.

Run from the repository; about half an hour of one core:

    himar-export build himar/himar/weights/digits.safetensors --config digits \
        --vae himar/himar/weights/digits-vae.safetensors --held-modulations --out demo/digits-held
    python -m benchmarks.studies.modulations demo/digits-held --out docs/modulations/digits

Writes digits.json, digits.md and digits.png (`benchmarks.studies.study`). How far modulations drift between evaluations
`benchmarks.studies.modulation_drift` says.
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

CHAINS = {"low_diffusion_steps": 100, "high_diffusion_steps": 250}
"""Of the released models."""

FORECAST = {"low_forecast": 4, "high_forecast": 8}


@dataclass(frozen=True)
class Held(Setting):
    """A setting of the study. kind: what its colour in the plot goes by."""

    kind: str


def settings() -> list[Held]:
    """Return all settings, the default first: the paper's chains, and their forecast, each held over 1, 2 and 4."""
    found = []
    for kind, name, changes in (("paper's chains", DEFAULT, CHAINS), ("N 4, 8", "N 4, 8", CHAINS | FORECAST)):
        found.append(Held(name, changes, kind))
        before = "" if name == DEFAULT else f"{name}; "
        found += [Held(f"{before}H {h}", {**changes, "modulation_interval": h}, kind) for h in (2, 4)]
    return found


def plot(path: Path, record: Mapping[str, Any]) -> Path:
    """Draw distance, precision and recall over the work; bars are ± deviation."""
    from himar_export.bench.plots import BLUE, GREY, ORANGE, panels, save

    figure, axes = panels(3, width=12.5, height=4.2)
    measured = complete(record, settings())
    titles = {"distance": "lower is better", "precision": "higher is better", "recall": "higher is better"}
    for panel, (name, title) in zip(axes, titles.items(), strict=True):
        for kind, (colour, marker) in {"paper's chains": (ORANGE, "o"), "N 4, 8": (BLUE, "D")}.items():
            points = [each for each in measured if each.kind == kind]
            if points:
                x = [work(record, each.name) for each in points]
                draw_points(panel, x, record, points, name, fmt=f"{marker}-", color=colour, label=kind)
        draw_default(panel, record, name, GREY)
        panel.set_xlabel("work, % of the default's FLOPs")
        panel.set_title(f"{name}: {title}")
    axes[0].legend(frameon=False)
    return save(figure, path)


STUDY = Study("modulations", settings(), lambda record: table(record, settings()), plot)


@click.command(
    epilog="Example: python -m benchmarks.studies.modulations demo/digits-held --out docs/modulations/digits"
)
@study_options
def main(**asked: Any) -> None:
    """Measure or time the digits BUNDLE with modulations held over several evaluations of its DiT head."""
    run(STUDY, **asked)


if __name__ == "__main__":
    sys.exit(run_cli(main))
