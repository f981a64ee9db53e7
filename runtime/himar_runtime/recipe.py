"""Defines the recipe of an image: all that is needed to generate it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from himar_kernels import ConfigError, InputError
from himar_kernels.families.registry import FAMILIES, HI_MAR

from .families.family import Sampling, known_families, runtime_family


@dataclass(frozen=True)
class Recipe:
    """How an image was made; `Pipeline.generate(**recipe.request())` of the same bundle makes it again.

    Attributes:
        seed: of the draws; None when other draws than a seed's were given.
        index: image index that the draws counted by.
        label: its class.
        sampling: the settings, complete, of the class of the model's family.
        bundle: id of the bundle (sha256 of its manifest).
        himar_version: of the runtime.
        family: of the model.
    """

    seed: int | None
    index: int
    label: int
    sampling: Sampling
    bundle: str
    himar_version: str
    family: str = HI_MAR

    def request(self) -> dict[str, Any]:
        """Return the arguments of `generate` for this image alone; InputError when it has no seed."""
        if self.seed is None:
            raise InputError("this image was made from given draws, not from a seed; pass the draws again.")
        return {
            "labels": [self.label],
            "seed": self.seed,
            "sampling": self.sampling,
            "first_index": self.index,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; without the family where it is hi_mar, as readers before families expect."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["sampling"] = self.sampling.to_dict()
        if self.family == HI_MAR:
            del values["family"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Recipe:
        """Read the values back; InputError that names `source`."""
        family = values.get("family", HI_MAR)
        if family not in FAMILIES:
            raise InputError(
                f"{source} holds the recipe of a model of the family {family!r}; this himar knows {known_families()}: "
                f"install a newer himar."
            )
        try:
            sampling = runtime_family(family).sampling_from_dict(values["sampling"], source)
            return cls(**{**values, "sampling": sampling})
        except (TypeError, KeyError, ConfigError) as error:
            raise InputError(f"{source} holds no recipe that this himar can read: {error}.") from error
