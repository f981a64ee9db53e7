"""Measures how far the shipped models' digits are from real ones, beside the distance of held-out real ones.

Run from the repository, after `make setup`:

    .venv/bin/python -m benchmarks.digits.distance [WEIGHTS.safetensors …]

Measures as `himar evaluate --extractor digits` does, all against the training digits; without files the shipped model
of each family.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.digits.shipped import SHIPPED, eager_images
from benchmarks.studies.measure import Judge

LABELS = [number // 50 for number in range(500)]


def main(files: list[Path]) -> None:
    """Print one row per set."""
    judge = Judge()
    rows = {"held-out digits": judge.held_out()}
    for file in files:
        rows[f"500 of {file.name}, seed 0"] = judge.figures(eager_images(file, LABELS), LABELS)
    table = Table()
    for heading in ("images", "FID-like", "sFID", "inception score", "precision", "recall", "recognised"):
        table.add_column(heading)
    for name, found in rows.items():
        figures = (found.distance, found.sfid, found.inception_score, found.precision, found.recall, found.recognised)
        table.add_row(name, *(f"{figure:.3g}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or list(SHIPPED.values()))
