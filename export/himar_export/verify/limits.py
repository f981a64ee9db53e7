"""Defines how far engines may be from the eager model, by precision."""

from __future__ import annotations

from collections.abc import Mapping

from himar_runtime import Bundle

COMPONENT_LIMIT: Mapping[str, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2, "int8": 6e-2, "fp8": 1e-1}
"""Largest relative L2 error of a component that passes. float32: a hundred times what correct graphs show. Half
precision and int8: several times what correct graphs of trained models show, far below what a wrong one does. Random
weights, whose matmuls have no outputs that matter more than others, come close to int8's."""

RUN_LIMIT: Mapping[str, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2, "int8": 6e-2, "fp8": 3e-1}
"""The same of a whole run, which in float32 has a noise floor of about 1e-5. A family widens it where its loop
magnifies rounding."""

RUN_MEANINGLESS = 0.5
"""A limit beyond which a run is not judged by its error: it has to be finite, no more."""


def stated_precisions(bundle: Bundle) -> dict[str, str]:
    """Return each component's precision, also where its graph is run in emulation."""
    return {
        name: entry.get("emulates", entry["precision"]) for name, entry in bundle.manifest.raw["components"].items()
    }
