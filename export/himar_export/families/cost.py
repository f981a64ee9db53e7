"""Defines what counting the work of a run asks of a model family, without PyTorch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from himar_kernels.families.registry import family_part

if TYPE_CHECKING:
    from himar_runtime import Manifest

    from ..cost.decoder import DecoderSizes
    from ..cost.run import CostRequest


class FamilyCost(Protocol):
    """A model family as `inspect --cost` and the roofline of `bench` know it; `config` is of the family's own class."""

    def describes(self, keys: Collection[str]) -> bool:
        """Whether a configuration file with these keys is of this family, where nothing else tells."""
        ...

    def read_config(self, name: str) -> Any:
        """Return the configuration of a preset or JSON file, which must give every size. Raises ConfigError."""
        ...

    def bundle_config(self, manifest: Manifest, source: str) -> Any:
        """Return the configuration that a manifest describes; ConfigError, naming `source`, where it is not whole."""
        ...

    def networks(self, config: Any) -> tuple[str, ...]:
        """Return the components that a bundle of this model may have, but the decoder."""
        ...

    def usual_decoder(self, config: Any) -> DecoderSizes | None:
        """Return the decoder of a configuration that nothing else is said of; None where it has none of its own."""
        ...

    def checkpoint_decoder(self, path: Path, config: Any) -> DecoderSizes:
        """Read a decoder off a checkpoint; needs torch. CheckpointError or ConfigError where it is not the model's."""
        ...

    def request(
        self,
        config: Any,
        holder: str,
        source: str,
        sampling_name: str | None,
        guidance: float | None,
        changes: Mapping[str, Any],
        batch: int,
        decoder: DecoderSizes | None,
        precision: Mapping[str, str],
    ) -> CostRequest:
        """Return what is asked for, its sampling settings chosen as for `generate`.

        holder, source: what has the named settings, and the model, in sentences. Raises ConfigError and InputError.
        """
        ...


def family_cost(name: str) -> FamilyCost:
    """Return a family by its name; KeyError where this himar does not know it, InputError where it has no cost."""
    family: FamilyCost = family_part(name, "cost")
    return family
