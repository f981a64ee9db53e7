"""Defines the layout of Hi-MAR's recordings (tests/golden/README.md), and checks that one is of a bundle's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from himar_export.verify.recording import has_shape
from himar_kernels import InputError
from himar_kernels.families.hi_mar import Phase
from himar_kernels.families.hi_mar.phases import ModelInfo

Arrays = Mapping[str, NDArray[Any]]

PHASE_ARRAYS: Mapping[Phase, str] = {"low": "phase1", "high": "phase2"}
"""Where a recording holds what belongs to a phase's transformer."""

RECORDED_HEADS = ("mlp", "dit", "mlp_low", "mlp_high", "dit_low", "dit_high")
"""What a recording may call the heads' arrays; which of them, the model's phases say."""

LAYOUT_KEYS = ("t", "text", "edit", *PHASE_ARRAYS.values(), *RECORDED_HEADS, "schedule", "vae")
"""First parts of the names that belong to the layout, so that no run may be called so."""


def recorded_name(head: str) -> str:
    """Return the prefix of a head's arrays in a recording: mlp_head → mlp, dit_head_low → dit_low."""
    return head.replace("_head", "")


def require_same_model(model: ModelInfo, arrays: Arrays) -> None:
    """Raise InputError unless the recorded arrays have this model's sizes."""
    S, N, C, D, L = model.low_positions, model.high_positions, model.channels, model.width, model.positions
    kind = "labels" if model.context_shape is None else "contexts"
    if "t/tokens" in arrays and f"t/{kind}" not in arrays:
        raise InputError(f"the recording is of another model: it has no t/{kind}, which this bundle's model takes.")
    wanted: dict[str, tuple[int | None, ...]] = {
        "t/contexts": (None, *(model.context_shape or ())),
        "text/tokens": (None, model.buffer),
        "text/context": (None, *(model.context_shape or ())),
        "t/low_tokens": (None, S, C),
        "t/tokens": (None, N, C),
        "t/pivots": (None, S, model.phase("high").pivot_width),
        **{f"{phase}/mask": (None, L) for phase in ("phase1", "phase2")},
        **{f"{phase}/z": (None, L, D) for phase in ("phase1", "phase2")},
        **{name: (None, C, None, None) for name in ("latent", "vae/latent")},
        "edit/image_u8": (None, model.img_size, model.img_size, 3),
        "edit/low_known": (None, S),
        "edit/z": (None, L, D),
    }
    for phase in model.phases:
        head, side = recorded_name(phase.head), phase.side
        if phase.kind == "mlp":
            wanted |= {f"{head}/x": (None, C), f"{head}/c": (None, D)}
        else:
            wanted |= {f"{head}/x": (None, C, side, side), f"{head}/z": (None, D, side, side)}
    heads = {recorded_name(phase.head) for phase in model.phases}
    recorded = {name for name in RECORDED_HEADS if f"{name}/x" in arrays}
    if recorded - heads:
        raise InputError(
            f"the recording is of another model: its heads are {', '.join(sorted(recorded))}, this bundle's are "
            f"{', '.join(sorted(heads))}."
        )
    for name, shape in wanted.items():
        if name in arrays and not has_shape(arrays[name], shape):
            raise InputError(
                f"the recording is of another model: {name} has shape {arrays[name].shape}, this bundle's model needs "
                f"({', '.join('any' if size is None else str(size) for size in shape)})."
            )
