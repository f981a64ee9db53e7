"""How near to each other the results of two float32 computations must be, whatever library multiplied their matrices.

Another CPU, another number of threads or another batch means other matmul kernels: they add up in another order, and
every element is rounded by the size of what was added, not by its own. So elements near zero have no digits in common,
and a bound on each element, absolute or relative to itself, holds only where it was written. What agrees is an array
as a whole: its relative L2 distance, or each element relative to the largest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMPONENT = 1e-5
"""Largest relative L2 distance of a single network's outputs in float32: see tests/golden/README.md."""
RUN = 1e-4
"""Largest relative L2 distance of a whole run's latents in float32."""
SAME_ENGINES = 1e-5
"""The same of two runs through the same engines: another loop or another batch changes last bits, and few of them."""

MARGINS_VARIABLE = "HIMAR_TEST_MARGINS"
"""A file to which each comparison adds the share of its limit that it used: see tests/run_on_cpus.py."""


def distance(found: Any, expected: Any) -> float:
    """Return ‖found − expected‖ / ‖expected‖ in float64: arrays, or tensors without gradients, of one shape.

    It is infinite where a value is not finite, or where zeros were expected and others found.
    """
    found, expected = _arrays(found, expected)
    return _ratio(np.linalg.norm(found - expected), np.linalg.norm(expected))


def assert_near(found: Any, expected: Any, limit: float, what: str = "") -> None:
    """Require a relative L2 distance of at most `limit`."""
    found, expected = _arrays(found, expected)
    _require(np.linalg.norm(found - expected), np.linalg.norm(expected), limit, "relative L2", found, expected, what)


def assert_each_near(found: Any, expected: Any, limit: float, what: str = "") -> None:
    """Require each element within `limit` times the largest absolute value expected."""
    found, expected = _arrays(found, expected)
    apart, largest = (float(np.abs(values).max(initial=0)) for values in (found - expected, expected))
    _require(apart, largest, limit, "of the largest value", found, expected, what)


def assert_rounded(found: Any, expected: Any, places: int) -> None:
    """Require elements within some units in float32's last place: of values computed in float64, then rounded once."""
    found, expected = _arrays(found, expected)
    apart = np.abs(found - expected) / np.spacing(np.abs(expected.astype(np.float32)))
    assert apart.max(initial=0) <= places, (
        f"{apart.max():.0f} units in the last place from the value expected, limit {places}: "
        f"{found.flat[apart.argmax()]:.9g} instead of {expected.flat[apart.argmax()]:.9g}"
    )


def assert_same_pixels(found: Any, expected: Any, what: str = "") -> None:
    """Require images of integers 0 … 255 that differ by 1 at most: a value between two may be rounded to either."""
    found, expected = _arrays(found, expected)
    apart = np.abs(found - expected)
    assert apart.max(initial=0) <= 1, (
        f"{what or 'pixels'}: {int((apart > 1).sum())} of {apart.size} values differ by more than 1, "
        f"by up to {apart.max():.0f}"
    )


def _arrays(found: Any, expected: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ours, theirs = (np.asarray(_detached(values), np.float64) for values in (found, expected))
    assert ours.shape == theirs.shape, f"shape {ours.shape}, expected {theirs.shape}"
    return ours, theirs


def _detached(values: Any) -> Any:
    return values.detach().cpu().double().numpy() if hasattr(values, "detach") else values


def _ratio(apart: float, size: float) -> float:
    if not np.isfinite(apart) or not np.isfinite(size):
        return float("inf")
    return float(apart / size) if size > 0 else float("inf" if apart > 0 else 0)


def _require(
    apart: float, size: float, limit: float, measure: str, found: NDArray, expected: NDArray, what: str
) -> None:
    ratio = _ratio(apart, size)
    if margins := os.environ.get(MARGINS_VARIABLE):
        _note(Path(margins), ratio / limit)
    if ratio <= limit:
        return
    with np.errstate(invalid="ignore"):
        worst = np.unravel_index(np.nan_to_num(np.abs(found - expected), nan=np.inf).argmax(), found.shape)
    place = f" at {tuple(map(int, worst))}" if worst else ""
    raise AssertionError(
        f"{what or 'values'} {ratio:.2e} ({measure}) from those expected, limit {limit:.0e}; shape {found.shape}, "
        f"furthest{place}: {found[worst]:.9g} instead of {expected[worst]:.9g}"
    )


def _note(path: Path, share: float) -> None:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{share:.3e} {test}\n")
