"""Names every model family and where each room keeps its part of it: the one place that a new family is added to.

A family is a folder in each room. What lies between its networks is `himar_kernels.families.NAME`, with its options of
commands in `sampling_options`; the other rooms hold modules with an object FAMILY each, which fulfils a protocol:

    himar           himar.families.NAME.family            himar.family.ModelFamily
                    himar.families.NAME.presets           PRESETS, configurations by name
                    himar.families.NAME.training          himar.training.family.TrainingFamily
                    himar.families.NAME.drift_family      himar.drift.DriftFamily
    himar_runtime   himar_runtime.families.NAME.family    himar_runtime.families.family.RuntimeFamily
    himar_export    himar_export.families.NAME.family     himar_export.families.family.ExportFamily
                    himar_export.families.NAME.checks     himar_export.families.checks.FamilyChecks
                    himar_export.families.NAME.cost       himar_export.families.cost.FamilyCost, in its module family
                    himar_export.families.NAME.bench      himar_export.families.bench.FamilyBench, in its module family

A family may do without cost, bench and drift. A bundle's manifest says `model.family`; one that does not is of hi_mar.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from himar_kernels.shared.errors import InputError

HI_MAR = "hi_mar"
VAE_DECODER = "vae_decoder"
"""The component that turns latents into pixels, in every family; a bundle that gives latents alone lacks it."""
VAE_ENCODER = "vae_encoder"
"""The component that turns pixels into latents, which editing needs; of hi_mar it is built on request."""
TEXT_ENCODER = "text_encoder"
"""The component that turns a prompt's tokens into its context; a bundle without it takes contexts alone."""


@dataclass(frozen=True)
class FamilyModules:
    """Import names of the modules with a family's FAMILY objects, by room.

    presets: with its named configurations; options: with its OPTIONS of commands. Those of training, cost, bench,
    options and drift are empty where the family has none.
    """

    presets: str
    model: str
    runtime: str
    export: str
    checks: str
    training: str = ""
    cost: str = ""
    bench: str = ""
    options: str = ""
    drift: str = ""


def in_rooms(name: str) -> FamilyModules:
    """Return the modules of a family that lies in this project's rooms."""
    return FamilyModules(
        f"himar.families.{name}.presets",
        f"himar.families.{name}.family",
        f"himar_runtime.families.{name}.family",
        f"himar_export.families.{name}.family",
        f"himar_export.families.{name}.checks",
        f"himar.families.{name}.training",
        f"himar_export.families.{name}.cost.family",
        f"himar_export.families.{name}.bench.family",
        f"himar_kernels.families.{name}.sampling_options",
    )


FAMILIES: dict[str, FamilyModules] = {
    HI_MAR: replace(in_rooms(HI_MAR), drift="himar.families.hi_mar.drift_family"),
    "hmar": in_rooms("hmar"),
}


def family_part(name: str, room: str) -> Any:
    """Return a family's FAMILY object, by the names of FamilyModules; KeyError for an unknown family.

    Its module is imported now, not before: the runtime never imports PyTorch, nor a family that it does not run. Raises
    InputError for a part that the family does without.
    """
    if not getattr(FAMILIES[name], room):
        able = ", ".join(repr(each) for each, modules in FAMILIES.items() if getattr(modules, room))
        raise InputError(
            f"this model is of the family {name!r}, which has no {room}; the families with one are {able}."
        )
    return importlib.import_module(getattr(FAMILIES[name], room)).FAMILY


def family_presets(name: str) -> Mapping[str, Any]:
    """Return a family's named configurations, without PyTorch."""
    presets: Mapping[str, Any] = importlib.import_module(FAMILIES[name].presets).PRESETS
    return presets
