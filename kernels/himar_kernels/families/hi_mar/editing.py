"""Editing without training: which positions of each phase are drawn anew, and in which order (docs/editing.md).

A position is known if no pixel of its cell is inside the mask. Known ones are as if steps before the edit's had
revealed them, so orders, index lists and the re-noising of a DiT head are those of a whole image. A known low position
has no pivot: phase high sees a learned placeholder there, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.draws import Phase
from himar_kernels.arithmetic.editing import Edit, touched_cells, widened
from himar_kernels.shared.errors import InputError

from .phases import PhaseSizes
from .sampling import SamplingConfig
from .schedule import Step, plan

DILATION = 0
"""Rings of cells around the mask that an edit draws too where the caller asks for none in particular."""

_GUIDING = ("low_guidance", "high_guidance", "low_guidances", "high_guidances", "guidance_schedule", "least_guidance")


@dataclass(frozen=True)
class Known:
    """What an edit keeps of B images.

    drawn: of each phase bool (B, n), True at positions that are drawn anew. tokens: of each phase float32 (B, n, C),
    those of the images, times the VAE scale; at positions that are drawn they are not read.
    """

    drawn: Mapping[Phase, NDArray[np.bool_]]
    tokens: Mapping[Phase, NDArray[np.float32]]


def drawn_positions(edit: Edit, sizes: PhaseSizes) -> dict[Phase, NDArray[np.bool_]]:
    """Return of each phase bool (B, n), True at positions that an edit draws anew; n is 0 without a phase low.

    They are the positions of whose cells any pixel is inside the mask, and as many rings of cells around them as the
    edit's dilation says.
    """
    sides: dict[Phase, int] = {"low": sizes.cond_scale, "high": sizes.grid}
    found: dict[Phase, NDArray[np.bool_]] = {}
    for phase, side in sides.items():
        cells = touched_cells(edit.masks, side) if side else np.zeros((len(edit), 0, 0), np.bool_)
        for _ in range(edit.dilation if side else 0):
            cells = widened(cells)
        found[phase] = cells.reshape(len(edit), side * side)
    return found


def drawn_counts(edit: Edit, sizes: PhaseSizes) -> NDArray[np.int64]:
    """Return int64 (B, 2): how many low and how many high positions of each image are drawn.

    Images with other counts have other steps, so they cannot run together.
    """
    drawn = drawn_positions(edit, sizes)
    return np.stack([drawn[phase].sum(axis=1, dtype=np.int64) for phase in ("low", "high")], axis=1)


def edit_order(order: NDArray[np.int64], drawn: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return orders (B, n) with the positions that are drawn first and the known ones after them, else as given.

    So the first m of an order are masked, as in a whole image, and one whose positions are all drawn stays as it is.
    """
    known = ~np.take_along_axis(drawn, order, axis=1)
    return np.take_along_axis(order, np.argsort(known, axis=1, kind="stable"), axis=1)


def edit_plan(sampling: SamplingConfig, sizes: PhaseSizes, counts: NDArray[np.int64]) -> tuple[Step, ...]:
    """Return all steps of an edit that draws counts (2,) of low and of high positions. Raises InputError."""
    return plan(sampling, sizes.low_positions, sizes.high_positions, (int(counts[0]), int(counts[1])))


def guide_rows(drawn: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return what phase high sees at low positions, int64 (R, S), of drawn (R, S): rows of a table.

    The table holds the projected pivots, flattened (R·S, D), and after them the S placeholders.
    """
    rows, positions = drawn.shape
    own = np.arange(rows * positions).reshape(rows, positions)
    return np.where(drawn, own, rows * positions + np.arange(positions))


def edit_sampling(sampling: SamplingConfig, shown: bool) -> SamplingConfig:
    """Return the settings of an edit: without a class or a text those without guidance, on unconditional rows alone."""
    return sampling if shown else sampling.with_changes(low_guidance=1.0, high_guidance=1.0)


def require_no_guidance(guidance: float | None, changes: Mapping[str, Any]) -> None:
    """Raise InputError where a caller asks for guidance, but for no class or text that it could lead to."""
    asked = {"guidance": guidance, **{name: changes.get(name) for name in _GUIDING}}
    for name, value in asked.items():
        if value is not None and value != 1:
            raise InputError(
                f"{name} is {value}, but neither class nor prompt is given, and without one nothing guides an edit; "
                f"give one, or leave {name} out."
            )
