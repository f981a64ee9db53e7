"""Names every model family and where each room keeps its part of it: the one place that a new family is added to.

A family is a folder in each room. What lies between its networks is `himar_kernels.families.NAME`; the other rooms hold
modules with an object FAMILY each, which fulfils a protocol:

    himar           himar.families.NAME.family            himar.family.ModelFamily
                    himar.families.NAME.presets           PRESETS, configurations by name
    himar_runtime   himar_runtime.families.NAME.family    himar_runtime.families.family.RuntimeFamily
    himar_export    himar_export.families.NAME.family     himar_export.families.family.ExportFamily
                    himar_export.families.NAME.checks     himar_export.families.checks.FamilyChecks

A bundle's manifest says `model.family`; one that does not is of hi_mar.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HI_MAR = "hi_mar"
VAE_DECODER = "vae_decoder"
"""The component that turns latents into pixels, in every family; a bundle that gives latents alone lacks it."""
VAE_ENCODER = "vae_encoder"
"""The component that turns pixels into latents, which editing needs; bundles of families that edit have it."""


@dataclass(frozen=True)
class FamilyModules:
    """Import names of the modules with a family's FAMILY objects, by room; presets: with its named configurations."""

    presets: str
    model: str
    runtime: str
    export: str
    checks: str


def in_rooms(name: str) -> FamilyModules:
    """Return the modules of a family that lies in this project's rooms."""
    return FamilyModules(
        f"himar.families.{name}.presets",
        f"himar.families.{name}.family",
        f"himar_runtime.families.{name}.family",
        f"himar_export.families.{name}.family",
        f"himar_export.families.{name}.checks",
    )


FAMILIES: dict[str, FamilyModules] = {
    HI_MAR: in_rooms(HI_MAR),
    "hmar": in_rooms("hmar"),
}


def family_part(name: str, room: str) -> Any:
    """Return a family's FAMILY object: its "model", "runtime", "export" or "checks"; KeyError for an unknown family.

    Its module is imported now, not before: the runtime never imports PyTorch, nor a family that it does not run.
    """
    return importlib.import_module(getattr(FAMILIES[name], room)).FAMILY


def family_presets(name: str) -> Mapping[str, Any]:
    """Return a family's named configurations, without PyTorch."""
    presets: Mapping[str, Any] = importlib.import_module(FAMILIES[name].presets).PRESETS
    return presets
