"""Measures digits with fewer diffusion steps: quality against work over solvers and steps, on a bundle's engines.

Run from the repository, after `make demo`; about 20 minutes of one core:

    python -m benchmarks.studies.solvers demo/digits --out docs/solvers/digits
    python -m benchmarks.studies.solvers demo/digits --out docs/solvers/digits --time 3    # seconds, on a quiet machine

Writes digits.json, digits.md and digits.png (`benchmarks.studies.study`).
"""

from __future__ import annotations

import sys
from typing import Any

import click

from benchmarks.studies.report import table
from benchmarks.studies.solvers_report import plot
from benchmarks.studies.solvers_settings import trials
from benchmarks.studies.study import Study, run, study_options
from himar_kernels.shared.console import run_cli

STUDY = Study("solvers", trials(), lambda record: table(record, trials()), plot)


@click.command(epilog="Example: python -m benchmarks.studies.solvers demo/digits --out docs/solvers/digits")
@study_options
def main(**asked: Any) -> None:
    """Measure or time the settings on the digits BUNDLE."""
    run(STUDY, **asked)


if __name__ == "__main__":
    sys.exit(run_cli(main))
