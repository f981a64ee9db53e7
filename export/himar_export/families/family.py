"""Defines what building asks of a model family: its components, its part of a manifest, and a recorded self-test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from himar_kernels.families.registry import family_part

if TYPE_CHECKING:
    from himar_runtime import Manifest

    from ..graph.component import Component
    from ..graph.precision_choice import Precision
    from ..make.manifest import BundleWriter
    from .checks import Arrays


@dataclass(frozen=True)
class Calibration:
    """What is observed before a build in int8 or fp8.

    Attributes:
        components: whose matmuls get fixed scales from it in either.
        only_fp8: whose matmuls get fixed scales in fp8, and in int8 have a scale per row.
        twins: component that is not observed → the one of these whose weights it has, and whose ranges are its own in
            fp8.
        request: keyword arguments of `Pipeline.generate`. What it makes bounds how long a build takes.
        images: how many these are.
    """

    components: tuple[str, ...]
    only_fp8: tuple[str, ...]
    twins: Mapping[str, str]
    request: Mapping[str, Any]
    images: int


class ExportFamily(Protocol):
    """A model family as export knows it; `model` and `vae` below are what `himar.family.ModelFamily` loads."""

    def manifest_keys(self, model: Any) -> tuple[dict[str, Any], str]:
        """Return the manifest's keys that tell the model and its settings, and the least schema version that has them.

        `model` is among them; its `family` is added where it is to be said.
        """
        ...

    def components(self, model: Any, vae: Any, max_batch: int, backend: str) -> Sequence[Component]:
        """Return the contracts of the components in the order in which they are built; vae None: without its own."""
        ...

    def held_modulations(self, model: Any, max_batch: int, precision: Precision) -> Sequence[Component]:
        """Return the components by which a head's modulations are held; none for a model without such.

        precision: theirs, fp32 or fp16; what lies between them has its type.
        """
        ...

    def add_held_setting(self, model: Any) -> None:
        """Give a model that has `held_modulations` the named sampling setting "held"."""
        ...

    def editing(self, model: Any, vae: Any, max_batch: int, backend: str) -> Sequence[Component]:
        """Return the components that edits run besides and that are built on request; none where all are there anyway.

        vae: never None.
        """
        ...

    def record_editing(self, model: Any, vae: Any, selftest: Arrays) -> Arrays:
        """Return what the components of `editing` are verified with, recorded from the eager model.

        selftest: what `record_selftest` gave.
        """
        ...

    def annotate(self, writer: BundleWriter, model: Any, vae: Any) -> None:
        """Add to the manifest what the loop or `verify` needs beside the networks; the weights file is still open."""
        ...

    def config_of(self, manifest: Manifest) -> dict[str, Any]:
        """Return the configuration that a bundle was built with, its sampling settings too, as for a checkpoint."""
        ...

    def record(self, model: Any, vae: Any, shown: Any, *, seed: int, sampling: Any, case: str) -> Arrays:
        """Run the eager model and return the recording, the run under `case`; vae None: without its decoder.

        shown: labels of the images, or in a model from text their contexts float32 (B, K, W).
        """
        ...

    def record_selftest(self, model: Any, vae: Any, case: str) -> Arrays:
        """Run the eager model briefly and return the recording that a bundle keeps, its run under `case`."""
        ...

    def calibration(self, model: Any) -> Calibration | None:
        """Return what to observe of a model; None where int8 has scales per row alone, and fp8 is impossible."""
        ...


def export_family(name: str) -> ExportFamily:
    """Return a family by its name; KeyError where this himar does not know it."""
    family: ExportFamily = family_part(name, "export")
    return family
