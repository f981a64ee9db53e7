"""Defines the recipe of an image: all that is needed to generate it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import ConfigError, InputError
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.families.registry import FAMILIES, HI_MAR

from .families.family import Sampling, known_families, runtime_family
from .texts import Texts


@dataclass(frozen=True)
class EditedFrom:
    """Which image an edit began with, and which part of it was drawn anew: SHA-256 of their pixels, as hex.

    dilation, feather: as for `Pipeline.edit`.
    """

    image: str
    mask: str
    dilation: int = 0
    feather: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as early readers expect: without rings and blending where there are none."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value or name in ("image", "mask")}


@dataclass(frozen=True)
class Recipe:
    """How an image was made; `Pipeline.generate(**recipe.request())` of the same bundle makes it again.

    An edited image is made again by `Pipeline.edit(**recipe.edit_request(image, mask))`, one from a context by
    `generate(**recipe.context_request(context))`.

    Attributes:
        seed: of the draws; None when other draws than a seed's were given.
        index: image index that the draws counted by.
        label: its class; None of an image from a text, and of an edit without a class.
        sampling: the settings, complete, of the class of the model's family.
        bundle: id of the bundle (sha256 of its manifest).
        himar_version: of the runtime.
        family: of the model.
        edit: what an edit began with; None of an image that is wholly drawn.
        prompt: the text that it was made from.
        context_sha256: of the context that it was made from where no prompt was given: float32 (K, W), little-endian.
    """

    seed: int | None
    index: int
    label: int | None
    sampling: Sampling
    bundle: str
    himar_version: str
    family: str = HI_MAR
    edit: EditedFrom | None = None
    prompt: str | None = None
    context_sha256: str | None = None

    def file_name(self) -> str:
        """Return SEED-INDEX-LABEL.png, of an image from a text SEED-INDEX-text.png, of an edit without a class
        SEED-INDEX-edit.png; the seed of other draws than a seed's is "draws".
        """
        seed = "draws" if self.seed is None else self.seed
        unlabelled = "text" if self.edit is None else "edit"
        return f"{seed}-{self.index:05d}-{unlabelled if self.label is None else self.label}.png"

    def request(self) -> dict[str, Any]:
        """Return the arguments of `generate` for this image alone.

        Raises InputError when it has no seed, is an edit, or was made from a context.
        """
        if self.edit is not None:
            raise InputError(
                "this image is an edit of another one, which takes that image and its mask; use edit_request."
            )
        if self.context_sha256 is not None:
            raise InputError("this image was made from a context, not from a prompt; use context_request.")
        if self.prompt is not None:
            return {"prompts": [self.prompt], **self._request()}
        return {"labels": [self.label], **self._request()}

    def context_request(self, context: NDArray[np.float32]) -> dict[str, Any]:
        """Return the arguments of `generate` that make this image again from its context (K, W).

        Raises InputError when it is another context, or when this image was made from none or has no seed.
        """
        if self.context_sha256 is None:
            raise InputError("this image was not made from a context; use request.")
        (found,) = Texts(contexts=np.asarray(context)[None]).hashes()
        if found != self.context_sha256:
            raise InputError(
                f"the context is not the one that the image was made from: its SHA-256 begins with {found!s:.12}, but "
                f"the recipe says {self.context_sha256[:12]}."
            )
        return {"contexts": context[None], **self._request()}

    def edit_request(self, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the arguments of `edit` that make this image again.

        image uint8 (P, P, 3), mask bool (P, P): those that the edit began with. Raises InputError when they are others,
        or when this image is no edit or has no seed.
        """
        if self.edit is None:
            raise InputError("this image was not edited; use request.")
        for what, found, asked in zip(
            ("image", "mask"), Edit(image[None], mask[None]).hashes()[0], (self.edit.image, self.edit.mask), strict=True
        ):
            if found != asked:
                raise InputError(
                    f"the {what} is not the one that was edited: its pixels' SHA-256 begins with {found[:12]}, but the "
                    f"recipe says {asked[:12]}."
                )
        shown: dict[str, Any] = {"labels": None if self.label is None else [self.label]}
        if self.prompt is not None:
            shown = {"prompts": [self.prompt]}
        options = {"dilation": self.edit.dilation, "feather": self.edit.feather}
        return {"images": [image], "masks": [mask], **shown, **options, **self._request()}

    def _request(self) -> dict[str, Any]:
        if self.seed is None:
            raise InputError("this image was made from given draws, not from a seed; pass the draws again.")
        return {"seed": self.seed, "sampling": self.sampling, "first_index": self.index}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as early readers expect: without what an image was not made from, or hi_mar."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["sampling"] = self.sampling.to_dict()
        values["edit"] = None if self.edit is None else self.edit.to_dict()
        if self.family == HI_MAR:
            del values["family"]
        for name in ("edit", "prompt", "context_sha256"):
            if values[name] is None:
                del values[name]
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
            edit = None if values.get("edit") is None else EditedFrom(**values["edit"])
            for name in ("prompt", "context_sha256"):
                if not isinstance(values.get(name), str | None):
                    raise TypeError(f"{name} is {values[name]!r}, which is no text")
            return cls(**{**values, "sampling": sampling, "edit": edit})
        except (TypeError, KeyError, ConfigError) as error:
            raise InputError(f"{source} holds no recipe that this himar can read: {error}.") from error
