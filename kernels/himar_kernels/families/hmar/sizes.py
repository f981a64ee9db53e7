"""The sizes of an HMAR model that the loop between its networks needs, and the components that follow from them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from himar_kernels.families.registry import VAE_DECODER, VAE_ENCODER
from himar_kernels.shared.errors import InputError

from .sampling import SamplingConfig
from .scales import Scales

CONDITIONS, TRUNK, NEXT_SCALE_TAIL, MASKED_TAIL = "conditions", "trunk", "next_scale_tail", "masked_tail"
VAR_TRUNK, VAR_TAIL = "var_trunk", "var_tail"
"""Trunk and next-scale tail that also attend to keys and values of all coarser scales."""


class ScaleSizes:
    """What follows from a model's sizes; for dataclasses with these fields (docs/hmar-model.md §1)."""

    patch_nums: tuple[int, ...]
    depth: int
    tail: int
    vae_stride: int

    @functools.cached_property
    def scales(self) -> Scales:
        """The scales, with what follows from their sides."""
        return Scales(self.patch_nums)

    @property
    def img_size(self) -> int:
        """Side of an image in pixels."""
        return self.scales.side * self.vae_stride

    @property
    def base(self) -> int:
        """Blocks that both networks share."""
        return self.depth - self.tail


@dataclass(frozen=True)
class ModelInfo(ScaleSizes):
    """The sizes (docs/hmar-model.md §1): names as in the model's configuration.

    masked: False where there is the next-scale network alone.
    """

    patch_nums: tuple[int, ...]
    width: int
    depth: int
    heads: int
    tail: int
    classes: int
    vocab: int
    latent_channels: int
    vae_stride: int
    masked: bool

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the components that every bundle of the model has, in the order in which they run."""
        own = (MASKED_TAIL,) if self.masked else ()
        return (CONDITIONS, TRUNK, NEXT_SCALE_TAIL, *own, VAE_DECODER)

    @property
    def optional(self) -> tuple[str, ...]:
        """Names of the components that a bundle may have: none that is loaded with the others."""
        return ()

    @property
    def deferred(self) -> tuple[str, ...]:
        """Names of the components that are loaded when a request first needs them: all scales in view, and editing."""
        return (VAR_TRUNK, VAR_TAIL, VAE_ENCODER)

    @property
    def editing(self) -> tuple[str, ...]:
        """Names of the components that edits need besides: the encoder, which every bundle has."""
        return (VAE_ENCODER,)

    @property
    def context_shape(self) -> None:
        """None: HMAR's images are of classes."""
        return None

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Raise InputError unless the model can sample so: schedule, top_k, and a masked network for masked steps."""
        sampling.check_model(self.scales, self.vocab)
        if sampling.masks and not self.masked:
            raise InputError(
                "schedule has masked steps, but this model has the next-scale network alone; leave schedule empty."
            )
