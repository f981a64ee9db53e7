"""The recipe of an image: all that is needed to generate it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from himar_kernels import ConfigError, InputError
from himar_kernels.families.hi_mar import SamplingConfig


@dataclass(frozen=True)
class Recipe:
    """How an image was made; `Pipeline.generate(**recipe.request())` of the same bundle makes it again.

    Attributes:
        seed: of the draws; None when other draws than a seed's were given.
        index: image index that the draws counted by.
        label: its class.
        sampling: steps, guidance and temperature.
        bundle: id of the bundle (sha256 of its manifest).
        himar_version: of the runtime.
    """

    seed: int | None
    index: int
    label: int
    sampling: SamplingConfig
    bundle: str
    himar_version: str

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
        """Return plain JSON values."""
        return {**asdict(self), "sampling": self.sampling.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Recipe:
        """Read the values back; InputError that names `source`."""
        try:
            return cls(**{**values, "sampling": SamplingConfig.from_dict(values["sampling"], source)})
        except (TypeError, KeyError, ConfigError) as error:
            raise InputError(f"{source} holds no recipe that this himar can read: {error}.") from error
