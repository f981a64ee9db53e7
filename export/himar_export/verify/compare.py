"""Measures how far an engine's output is from the model's: several statistics per output, one of which decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Comparison:
    """One output against its reference.

    Attributes:
        name: component and output, or the run's result.
        relative_l2: ‖actual − expected‖ / ‖expected‖; infinite when a value is not finite. Decides.
        max_abs: largest absolute difference.
        cosine: cosine of the angle between the two, 1 when they agree in direction.
        limit: largest `relative_l2` that passes; None when the two cannot be compared meaningfully.
    """

    name: str
    relative_l2: float
    max_abs: float
    cosine: float
    limit: float | None

    @property
    def passed(self) -> bool | None:
        """Whether the relative error is within the limit (not-a-number never is); None when not compared."""
        return None if self.limit is None else self.relative_l2 <= self.limit


def compare(name: str, actual: NDArray[Any], expected: NDArray[Any], limit: float | None) -> Comparison:
    """Compare two arrays of one shape in float64; a wrong shape or a value that is not finite fails."""
    a, b = np.asarray(actual, np.float64).ravel(), np.asarray(expected, np.float64).ravel()
    if np.shape(actual) != np.shape(expected) or not np.isfinite(a).all():
        return Comparison(name, np.inf, np.inf, 0.0, limit)
    difference, scale = np.linalg.norm(a - b), np.linalg.norm(b)
    relative = difference / scale if scale else (0.0 if difference == 0 else np.inf)
    norms = np.linalg.norm(a) * scale
    cosine = float(a @ b / norms) if norms else float(difference == 0)
    return Comparison(name, float(relative), float(np.abs(a - b).max(initial=0.0)), cosine, limit)
