"""Defines what the runtime asks of a model family: reading its part of a manifest, checking and running a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from himar_kernels import BundleError, ConfigError, InputError
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.families.registry import FAMILIES, VAE_ENCODER, family_part
from himar_kernels.families.settings import settings_from_dict

if TYPE_CHECKING:
    from ..bundle.bundle import Bundle
    from ..bundle.manifest import Manifest, Reader
    from ..engines.networks import Networks
    from ..runner import Generated, Runner

SettingsT = TypeVar("SettingsT")


class ModelSizes(Protocol):
    """What every family's model says of itself.

    classes: labels are 0 … classes-1. context_shape: K and W of the context (K, W) of the text that each image is made
    from; None where images are of classes, else classes is 0. img_size: side of its images in pixels. networks:
    components that a bundle has to have; optional: those that it may have; deferred: those that it may have and that
    are loaded when first needed; editing: those of them without which it cannot edit.
    """

    @property
    def classes(self) -> int:
        """See the class."""
        ...

    @property
    def context_shape(self) -> tuple[int, int] | None:
        """See the class."""
        ...

    @property
    def img_size(self) -> int:
        """See the class."""
        ...

    @property
    def networks(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def optional(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def deferred(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def editing(self) -> tuple[str, ...]:
        """See the class."""
        ...


class Sampling(Protocol):
    """Settings of one generation. Immutable."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which `RuntimeFamily.sampling_from_dict` reads back."""
        ...


class RuntimeFamily(Protocol):
    """A model family as the runtime knows it; `model` and `sampling` below are of the family's own classes.

    changeable: names of the settings of which a request may replace single ones. editing_advice: how to build a bundle
    that can edit, the end of a sentence.
    """

    changeable: tuple[str, ...]
    editing_advice: str

    def read_model(self, reader: Reader) -> Any:
        """Return the sizes (ModelSizes) that a manifest's `model` gives; BundleError for one that is wrong."""
        ...

    def read_sampling(self, top: Reader) -> Mapping[str, Any]:
        """Return a manifest's named settings, the default first; BundleError for one that is wrong."""
        ...

    def sampling_from_dict(self, values: Mapping[str, Any], source: str) -> Sampling:
        """Read settings back from JSON values, as a recipe holds them; ConfigError that names `source`."""
        ...

    def choose_sampling(
        self,
        model: Any,
        named: Mapping[str, Any],
        sampling: object,
        guidance: float | None,
        changes: Mapping[str, Any],
    ) -> Any:
        """Return the settings of a request, checked against the model.

        Args:
            named: the settings of the bundle, the first is the default.
            sampling: a name among them, settings of the caller's own, or None for the default.
            guidance: guidance scale of the whole run; None leaves the settings'.
            changes: single values by the names in `changeable`; None leaves a value.

        Raises InputError for an unknown name or a value that this model cannot use, or for a change that is no setting.
        """
        ...

    def edit_sampling(
        self,
        model: Any,
        named: Mapping[str, Any],
        sampling: object,
        guidance: float | None,
        changes: Mapping[str, Any],
        shown: bool,
    ) -> Any:
        """Return the settings of an edit as `choose_sampling` does; shown: classes or prompts are given.

        Raises InputError for settings that it cannot edit with, and where the family cannot edit at all.
        """
        ...

    def dilation(self, asked: int | None) -> int:
        """Return how many rings of cells an edit draws around its mask; None: the family's usual number.

        Raises InputError for rings where the family has no such option.
        """
        ...

    def edit_kinds(self, model: Any, edit: Edit) -> Sequence[object]:
        """Return of each image that is edited a key; images of different ones cannot run together."""
        ...

    def draws(self, seed: int) -> Any:
        """Return the counter-based draws of a seed; InputError outside 0 … 2^64-1."""
        ...

    def image_draws(self, seeds: Sequence[int], indices: Sequence[int]) -> Any:
        """Return the draws of images that have a seed and an index each; a request's `images` then count them from 0.

        Raises InputError for a seed outside 0 … 2^64-1, or another count of indices.
        """
        ...

    def steps(self, model: Any, sampling: Any, edit: Edit | None = None) -> int:
        """Return how many autoregressive steps one run takes, each of which ends with a report.

        edit: what it edits, images that can run together; None where it makes whole images.
        """
        ...

    def shown(self, model: Any, sampling: Any, edit: Edit | None = None) -> range:
        """Return after which counts of steps of one run `Progress.so_far` is worth a look: a rough image, not finished.

        Empty where there are no previews. edit: as for `steps`.
        """
        ...

    def no_images(self, model: Any) -> Generated:
        """Return what a run of no images leaves: arrays of the right shapes and 0 images."""
        ...

    def first_needed(self, manifest: Manifest) -> tuple[str, ...]:
        """Return those of the model's deferred components that requests of the bundle's default setting load."""
        ...

    def resident_bytes(self, manifest: Manifest) -> int:
        """Return the bytes of a lane's buffers on a GPU beside its engines, which hold the bundle's largest batch.

        Those that requests of the bundle's default setting need.
        """
        ...

    def runner(self, bundle: Bundle, networks: Networks) -> Runner:
        """Return what runs the family's loop with these engines."""
        ...


def read_settings(kind: type[SettingsT], top: Reader, *further: str) -> dict[str, SettingsT]:
    """Return a manifest's named settings, the default first; keys that this himar does not know are ignored.

    kind: their class, a dataclass; further: keys of more of them after those of `sampling`, where a manifest has any.
    Raises BundleError for a setting that is wrong or stands twice, and where there is none.
    """
    reader = top.reader("sampling")
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    settings: dict[str, SettingsT] = {}
    more = [entry for key in further if key in top.values for entry in top.reader(key).readers()]
    for name, entry in [*reader.readers(), *more]:
        if name in settings:
            raise BundleError(f"{reader.source}: {entry.path} is a setting of sampling too; build the bundle again.")
        values = {key: value for key, value in entry.values.items() if key in known}
        try:
            settings[name] = settings_from_dict(kind, values, entry.path)
        except ConfigError as error:
            raise BundleError(f"{reader.source}: {error}") from error
    if not reader.values:
        raise BundleError(f"{reader.source}: sampling is empty; it needs at least one setting.")
    return settings


def partial_steps(family: RuntimeFamily, model: Any, sampling: Any, most: int, edit: Edit | None = None) -> set[int]:
    """Return after which counts of steps of one run to show an unfinished image, at most `most`.

    The first shows the earliest rough image there is, of Hi-MAR the pivots of phase low; others follow evenly. A model
    of fewer steps gives fewer. edit: as for `RuntimeFamily.steps`.
    """
    steps = family.shown(model, sampling, edit)
    count = min(most, len(steps))
    return {steps[place * len(steps) // count] for place in range(count)}


def require_editing(manifest: Manifest, name: str) -> None:
    """Raise InputError where a bundle lacks what edits need; name: of the bundle, for the sentence."""
    missing = [each for each in manifest.model.editing if each not in manifest.components]
    if missing:
        what = "reads the images to be edited" if missing[0] == VAE_ENCODER else "edits need"
        advice = runtime_family(manifest.family).editing_advice
        raise InputError(f"{name} has no {missing[0]}, which {what}; {advice}.")


def runtime_family(name: str) -> RuntimeFamily:
    """Return a family by its name; KeyError where this himar does not know it."""
    family: RuntimeFamily = family_part(name, "runtime")
    return family


def known_families() -> str:
    """Return the names of the families for a sentence."""
    return ", ".join(map(repr, FAMILIES))
