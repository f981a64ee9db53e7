"""Measures generated digits: distance, precision and recall in the digits classifier's features, and recognition.

Shared by the benchmarks of this folder; the numbers are those of `himar evaluate --extractor digits`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himar.data.digits import DigitClassifier, load_digits_split
from himar.evaluation.digits_extractor import DigitsExtractor
from himar.evaluation.image_sets import open_images
from himar.evaluation.measure import measure, open_reference
from himar_kernels import to_uint8

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
BATCH = 64


@dataclass(frozen=True)
class Figures:
    """Of one set of images against the 1,437 training digits.

    distance: Fréchet distance in 64 features (FID-like, not comparable with an Inception FID); sfid: the same in 112
    spatial ones; inception_score: of the classifier; precision, recall: shares, k = 3; recognised: share that an SVM of
    real digits recognises as the class asked for.
    """

    images: int
    distance: float
    sfid: float
    inception_score: float
    precision: float
    recall: float
    recognised: float

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return asdict(self)


class Judge:
    """Measures sets of digits. Holds the classifiers and the training digits' features."""

    def __init__(self) -> None:
        self._extractor, self._classifier = DigitsExtractor(), DigitClassifier()
        train, _ = load_digits_split()
        with tempfile.TemporaryDirectory() as folder:
            path = _archive(Path(folder), to_uint8(train.images.numpy()))
            self._reference = open_reference(path, self._extractor, BATCH)

    def figures(self, images: NDArray[np.uint8], labels: Sequence[int]) -> Figures:
        """Images (n, 32, 32, 3) uint8 that were asked to show `labels` (n,) -> their figures. Raises InputError."""
        with tempfile.TemporaryDirectory() as folder:
            report, _ = measure(open_images(_archive(Path(folder), images)), self._extractor, self._reference)
        assert report.fid is not None and report.sfid is not None
        assert report.precision is not None and report.recall is not None
        recognised = self._classifier.accuracy(images, np.asarray(labels, np.int64))
        return Figures(
            report.images, report.fid, report.sfid, report.inception_score, report.precision, report.recall, recognised
        )

    def held_out(self) -> Figures:
        """Return the figures of the 360 real digits that nothing was trained on: the floor of a distance."""
        _, held_out = load_digits_split()
        return self.figures(to_uint8(held_out.images.numpy()), held_out.labels.tolist())


def even_labels(images: int) -> list[int]:
    """Return as many of every digit (up to one), in turn."""
    return [number % 10 for number in range(images)]


def _archive(folder: Path, images: NDArray[np.uint8]) -> Path:
    path = folder / "images.npz"
    np.savez(path, images)
    return path
