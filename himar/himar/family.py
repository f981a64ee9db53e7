"""Defines what a model family is in PyTorch, and finds the family that a checkpoint is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from himar_kernels.families.registry import FAMILIES, HI_MAR, family_part

from .families.configuration import find_family
from .loading.checkpoint_files import Weights, read_weights
from .loading.weight_sets import Network


class FamilyModel(Protocol):
    """A loaded model of any family, a torch.nn.Module.

    family: its name in the registry; config: of the family's own class; class_names: one per class, or None.
    """

    family: str
    config: Any
    class_names: tuple[str, ...] | None


class ModelFamily(Protocol):
    """A model family as PyTorch runs it.

    title: its name in sentences. anchor: a parameter that every model of the family has; it tells under which prefix of
    a checkpoint the model stands.
    """

    title: str
    anchor: str

    def recognises(self, names: Collection[str]) -> bool:
        """Whether parameters of these names, prefixes taken off, are a model's of this family."""
        ...

    def describes(self, keys: Collection[str]) -> bool:
        """Whether a configuration file with these keys is of this family, where nothing else tells."""
        ...

    def model_from(self, read: Weights, path: Path, config: str | Path | Mapping[str, Any] | None) -> Any:
        """Return a model (FamilyModel) for inference, float32 on the CPU, from what was read of `path`.

        config: what a user gave, a preset's name, a JSON
        file or values; None takes what the checkpoint carries. Raises CheckpointError and ConfigError.
        """
        ...

    def load_vae(self, path: Path, model: Any) -> nn.Module:
        """Load the autoencoder between the model's tokens and images; ConfigError where it is not this model's."""
        ...

    def random(self, config: str | Path, seed: int) -> tuple[Any, nn.Module | None]:
        """Return a model with random weights that all matter, to try an export, and its autoencoder where it needs one.

        config: a preset's name or a JSON file, which must give every size. Raises ConfigError.
        """
        ...

    def save(self, path: Path, model: nn.Module, dtype: torch.dtype) -> None:
        """Write a model, or an autoencoder of the family, as safetensors in one move; `dtype` is that on disk."""
        ...

    def sample(
        self,
        model: Any,
        vae: Any,
        labels: Sequence[int],
        *,
        seed: int,
        sampling: str | None,
        guidance: float | None,
        changes: Mapping[str, Any],
    ) -> NDArray[np.uint8]:
        """Sample one image per label with the eager model: uint8 (B, H, W, 3).

        sampling: a name among the model's settings, None for its default; guidance and changes: values in their place,
        None leaves one. Raises InputError for a value that the model cannot use.
        """
        ...


def model_family(name: str) -> ModelFamily:
    """Return a family by its name; KeyError where this himar does not know it."""
    family: ModelFamily = family_part(name, "model")
    return family


def open_model(
    path: Path, config: str | Path | Mapping[str, Any] | None = None, *, weights: str | None = None
) -> tuple[FamilyModel, str | None]:
    """Load a model of whatever family for inference; return it and the entry it stood in.

    Arguments as for `himar.load_checkpoint`. The parameters' names tell the family; what no family recognises is read
    as hi_mar, whose loader says what is missing. Raises CheckpointError and ConfigError.
    """
    families = {name: model_family(name) for name in FAMILIES}
    title = " or ".join(family.title for family in families.values())
    anchors = {family.anchor for family in families.values()}
    read = read_weights(path, weights, network=Network(title, sorted(anchors)))
    name = next((name for name, family in families.items() if family.recognises(read.state)), HI_MAR)
    model: FamilyModel = families[name].model_from(read, path, config)
    return model, read.entry or None


def family_of(config: str | Path) -> str:
    """Return the family that a preset, or a JSON file by its keys, describes; hi_mar where nothing tells."""
    return find_family(config, lambda name, keys: model_family(name).describes(keys))
