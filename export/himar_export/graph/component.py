"""Defines a component's contract: what export, build, allocation and parity share of one exported network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from himar_runtime import TensorSpec

Profile = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Component:
    """One exported network.

    Attributes:
        name: as in the manifest.
        inputs, outputs: tensors in the graph's order; a string in a shape is a dynamic axis.
        profile: min, opt and max size of every dynamic axis, in TensorRT's words, for the bundle's maximum batch.
        graph: makes the exportable module, its matmuls in the given dtype.
        islands: first parts of the names of its matmuls that stay float32 in half precision: of few channels, or
            the last before values that the float32 diffusion or an image takes.
        fp32_layers: names of further layers that stay float32, by a user's choice (`fp32_layers`).
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: Profile
    graph: Callable[[torch.dtype], nn.Module]
    islands: tuple[str, ...]
    _samples: Callable[[int], dict[str, Tensor]]
    fp32_layers: tuple[str, ...] = ()

    def sample_inputs(self, rows: int) -> dict[str, Tensor]:
        """Return valid inputs by name with `rows` rows (samples, images), the same at every call."""
        return self._samples(rows)
