"""Defines what checking and reading a bundle asks of a model family, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from himar_kernels.families.registry import family_part

if TYPE_CHECKING:
    from himar_runtime import Bundle, Manifest, Networks, Pipeline

    from ..verify.compare import Comparison
    from ..verify.recording import Recording

Arrays = Mapping[str, NDArray[Any]]


class FamilyChecks(Protocol):
    """A model family as `verify` and `inspect` know it."""

    def require_same_model(self, bundle: Bundle, arrays: Recording) -> None:
        """Raise InputError unless a recording's arrays have the sizes of the bundle's model."""
        ...

    def verify(self, pipeline: Pipeline, networks: Networks, arrays: Recording, case: str | None) -> list[Comparison]:
        """Replay a recording's components and its runs, all of them or the one called `case`."""
        ...

    def advice(self, manifest: Manifest) -> str | None:
        """Return advice for the builder of this bundle, one sentence, or None."""
        ...

    def describe(self, manifest: Manifest) -> list[str]:
        """Return the lines that `inspect` prints of the model, each a word of at most 10 characters and its facts."""
        ...

    def settings(self, manifest: Manifest) -> dict[str, dict[str, Any]]:
        """Return the named sampling settings, each with the values that mean something to this model, by name."""
        ...


def family_checks(name: str) -> FamilyChecks:
    """Return a family by its name; KeyError where this himar does not know it."""
    family: FamilyChecks = family_part(name, "checks")
    return family
