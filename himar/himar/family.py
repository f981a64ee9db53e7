"""Defines what a model family is in PyTorch, and finds the family that a checkpoint is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from himar_kernels import CheckpointError
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

    def to(self, device: torch.device) -> Any:
        """See torch.nn.Module."""
        ...


class Sampling(Protocol):
    """Settings of a family's sampler, immutable."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        ...


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

    def choose_sampling(
        self, model: Any, sampling: str | None, guidance: float | None, changes: Mapping[str, Any], holder: str
    ) -> Any:
        """Return the settings (Sampling) of a run that the model can do.

        sampling: a name among the model's settings, None for its default; guidance and changes: values in their place,
        None leaves one; holder: of the model, in errors. Raises InputError for a value that the model cannot use.
        """
        ...

    def sampling_from_dict(self, model: Any, values: Mapping[str, Any]) -> Any:
        """Return the settings of what `Sampling.to_dict` gave; ConfigError or InputError where they do not fit."""
        ...

    def images(
        self,
        model: Any,
        vae: Any,
        labels: Sequence[int] | None,
        *,
        seed: int,
        sampling: Any,
        first_index: int = 0,
        contexts: Tensor | None = None,
    ) -> NDArray[np.uint8]:
        """Sample one image per label, or per context of a text, with the eager model: uint8 (B, H, W, 3).

        labels, contexts: one of both, as the model takes them, the other None; contexts (B, K, W) floats. first_index:
        image index of the first image; an image depends on its seed, index and label or context alone. Raises
        InputError for what the model does not take, or an image that is not finite.
        """
        ...


def model_family(name: str) -> ModelFamily:
    """Return a family by its name; KeyError where this himar does not know it."""
    family: ModelFamily = family_part(name, "model")
    return family


def open_model(
    path: Path,
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    weights: str | None = None,
    wanted: str | None = None,
) -> tuple[FamilyModel, str | None]:
    """Load a model of whatever family for inference; return it and the entry it stood in.

    Arguments as for `himar.load_checkpoint`; wanted: the only family that will do. The parameters' names tell the
    family; what no family recognises is read as hi_mar, whose loader says what is missing. Raises CheckpointError and
    ConfigError.
    """
    families = {name: model_family(name) for name in FAMILIES}
    title = " or ".join(family.title for family in families.values())
    anchors = {family.anchor for family in families.values()}
    read = read_weights(path, weights, network=Network(title, sorted(anchors)))
    name = next((name for name, family in families.items() if family.recognises(read.state)), HI_MAR)
    if wanted not in (None, name):
        raise CheckpointError(
            f"{path} is no {families[wanted].title} model: its parameters are those of {families[name].title}; give a "
            f"checkpoint of the same family."
        )
    model: FamilyModel = families[name].model_from(read, path, config)
    return model, read.entry or None


def family_of(config: str | Path) -> str:
    """Return the family that a preset, or a JSON file by its keys, describes; hi_mar where nothing tells."""
    return find_family(config, lambda name, keys: model_family(name).describes(keys))
