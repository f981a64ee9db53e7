"""How far the shipped model's digits are from real ones, beside the distance of real ones that nothing trained on.

Run from the repository, after `make setup`:

    .venv/bin/python benchmarks/digits_distance.py

Writes the sets as `.npz` to a temporary folder and measures them as `himar evaluate --extractor digits` does.
"""

import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from himar import load_checkpoint, load_vae
from himar.digits import load_digits_split
from himar.evaluation.digits_extractor import DigitsExtractor
from himar.evaluation.image_sets import open_images
from himar.evaluation.measure import measure, open_reference
from himar.images import sample_images
from himar_kernels import PhiloxDraws, to_uint8

WEIGHTS = Path(__file__).parents[1] / "himar" / "weights"
LABELS = [number // 50 for number in range(500)]
BATCH = 64


def main() -> None:
    """Print one row per set, all against the training digits."""
    train, held_out = load_digits_split()
    model, vae = load_checkpoint(WEIGHTS / "digits.safetensors"), load_vae(WEIGHTS / "digits-vae.safetensors")
    sets = {
        "training digits": to_uint8(train.images.numpy()),
        "held-out digits": to_uint8(held_out.images.numpy()),
        "500 of the shipped model, seed 0": sample_images(model, vae, LABELS, PhiloxDraws(0)),
    }
    table = Table()
    for heading in ("images", "FID-like", "sFID", "inception score", "precision", "recall"):
        table.add_column(heading)
    extractor = DigitsExtractor()
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{number}.npz" for number, name in enumerate(sets)}
        for name, images in sets.items():
            np.savez(paths[name], images)
        reference = open_reference(paths["training digits"], extractor, BATCH)
        for name in list(sets)[1:]:
            report, _ = measure(open_images(paths[name]), extractor, reference)
            figures = (report.fid, report.sfid, report.inception_score, report.precision, report.recall)
            table.add_row(name, *(f"{figure:.3g}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
