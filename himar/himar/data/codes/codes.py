"""Defines what HMAR's training reads: codes of images by index, with the quantizer whose codes they are."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from himar_kernels import InputError
from himar_kernels.families.hmar import Scales

from ...families.hmar.config import ModelConfig
from ...families.hmar.tokenizer.network import Quantizer
from ..order import check_classes, label_fingerprint, some_images


class Codes(Protocol):
    """Images as codes of all scales. A `CodeSet` in memory, `CachedCodes` on disk, `ImageCodes` from pixels, or yours.

    scales: whose cells the codes are for; quantizer: whose codes they are, frozen, float32.
    """

    scales: Scales
    quantizer: Quantizer

    @property
    def labels(self) -> Tensor:
        """Class of each of the n images (n,), integers from 0."""

    def draw(self, chosen: Tensor, needed: Collection[slice], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the chosen images' codes (B, L), int64, and labels (B,).

        needed: parts of the batch whose codes are looked at; others may be anything. Everything random comes from the
        generator, and how much of it depends on the number of images alone.
        """

    def values(self, chosen: Tensor) -> dict[str, Any]:
        """Return plain values that tell these images' codes from others', to recognise a data set."""


@dataclass(frozen=True)
class CodeSet:
    """Codes in memory: one crop of each image, the same every time.

    codes (n, L), integers 0 … V-1; labels (n,); quantizer and scales: see `Codes`.
    """

    codes: Tensor
    labels: Tensor
    quantizer: Quantizer
    scales: Scales

    def __post_init__(self) -> None:
        if len(self.codes) != len(self.labels) or not len(self.labels):
            raise InputError(
                f"{len(self.codes)} images' codes and {len(self.labels)} labels were given; give one label per image, "
                f"and at least one image."
            )
        vocab = self.quantizer.embedding.num_embeddings
        if tuple(self.codes.shape[1:]) != (self.scales.tokens,):
            raise InputError(
                f"codes have shape {tuple(self.codes.shape)}; these scales need (n, {self.scales.tokens})."
            )
        if not 0 <= int(self.codes.min()) <= int(self.codes.max()) < vocab:
            raise InputError(
                f"codes run from {int(self.codes.min())} to {int(self.codes.max())}; this quantizer has the codes 0 to "
                f"{vocab - 1}."
            )

    def draw(self, chosen: Tensor, needed: Collection[slice], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See Codes.draw; nothing is random."""
        return self.codes[chosen].long(), self.labels[chosen]

    def values(self, chosen: Tensor) -> dict[str, Any]:
        """See Codes.values: a hash of all codes of the images."""
        return {"codes": hash_of(self.codes[chosen])}


def hash_of(values: Tensor) -> str:
    """Return a short hash of integers."""
    return hashlib.sha256(values.to(torch.int64).contiguous().numpy().tobytes()).hexdigest()[:16]


def code_fingerprint(codes: Codes) -> dict[str, Any]:
    """Return what tells one set of codes from another: its images' number, labels and classes, some of its images'
    codes, and the quantizer's weights.
    """
    weights = [value.detach().float().cpu().contiguous() for value in codes.quantizer.state_dict().values()]
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights)).hexdigest()[:16]
    return {**label_fingerprint(codes), **codes.values(some_images(codes)), "quantizer": digest}


def check_fit(config: ModelConfig, codes: Codes) -> None:
    """Raise InputError unless the codes have the model's scales, vocabulary and classes."""
    if codes.scales != config.scales:
        raise InputError(
            f"the codes are of scales with the sides {list(codes.scales.sides)}; this model has "
            f"{list(config.scales.sides)}."
        )
    table = codes.quantizer.embedding
    if (table.num_embeddings, table.embedding_dim) != (config.vocab, config.latent_channels):
        raise InputError(
            f"the codes are of a quantizer with {table.num_embeddings} codes of {table.embedding_dim} channels; this "
            f"model has {config.vocab} of {config.latent_channels}."
        )
    check_classes(codes, config.classes)
