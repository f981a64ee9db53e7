"""Loads a whole CLIP model, both towers and their projections, and compares images with texts.

The folder is what transformers writes of a CLIPModel. Every size is measured from the weights; config.json gives what
shapes do not tell, and must not contradict them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from himar_kernels import CheckpointError, ConfigError

from ..device import full_precision
from ..loading.checkpoint_files import Weights, read_weights
from ..loading.own_files import require_layout
from ..loading.weight_sets import Network
from ..loading.weight_values import as_float32
from .files import agreeing_sizes, count_layers, text_tower_of
from .tower import TextTower
from .vision import VisionConfig, VisionTower

_TEXT, _VISION = "text_model.", "vision_model."
_PROJECTIONS = ("text_projection.weight", "visual_projection.weight")
_CLIP = Network("CLIP", _PROJECTIONS)
_CLASS, _PATCH = "embeddings.class_embedding", "embeddings.patch_embedding.weight"
_POSITIONS, _HIDDEN = "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight"
_NO_WEIGHT = "embeddings.position_ids"
_NAMES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "size": "image_size",
    "patch": "patch_size",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}
"""Our name of a size → Hugging Face's."""
_ABSENT = {"heads": 12, "activation": "quick_gelu", "eps": 1e-5}
"""What a config.json means by leaving a key out: the defaults of transformers' CLIPVisionConfig."""


class Clip(nn.Module):
    """Both towers and the projections into the space that they share, of P numbers."""

    def __init__(
        self, text: TextTower, vision: VisionTower, text_projection: Tensor, visual_projection: Tensor
    ) -> None:
        """Take the towers and projections (P, W) of their widths W."""
        super().__init__()
        self.text, self.vision = text, vision
        self.register_buffer("text_projection", text_projection)
        self.register_buffer("visual_projection", visual_projection)

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """Map normalised images (n, 3, size, size) to unit vectors (n, P), on the model's device."""
        projection = self.get_buffer("visual_projection")
        with full_precision():
            return F.normalize(self.vision(pixels.to(projection.device)) @ projection.T, dim=1)

    @torch.no_grad()
    def text_features(self, ids: NDArray[np.int64]) -> Tensor:
        """Map rows of the model's own token ids (n, K), an end token in each, to unit vectors (n, P), on its device.

        The state at the first end token stands for its text. What follows the last of these is nothing to it and is
        left out: captions are mostly a fifth of a row.
        """
        projection = self.get_buffer("text_projection")
        ends = torch.from_numpy((ids == self.text.config.vocabulary - 1).argmax(axis=1))
        needed = torch.from_numpy(ids[:, : int(ends.max()) + 1]).to(projection.device)
        with full_precision():
            pooled = self.text(needed)[torch.arange(len(ids)), ends]
            return F.normalize(pooled @ projection.T, dim=1)


def load_clip(folder: str | Path) -> Clip:
    """Load a CLIP model in float32, frozen, from a folder with config.json and its weights, also in shards.

    Raises CheckpointError: no such files, damaged, without one of the towers, or contradicting each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the one with a CLIP model's config.json and weights.")
    read = read_weights(folder, network=_CLIP)
    for what, names in (("vision", (_VISION + _CLASS, _PROJECTIONS[1])), ("text", (_PROJECTIONS[0],))):
        for name in names:
            if name not in read.state:
                raise CheckpointError(
                    f"{read.file} holds no {what} tower with its projection: it has no {name}; give the folder of a "
                    f"whole CLIP model, which transformers calls CLIPModel."
                )
    text = text_tower_of(read, _below(read.state, _TEXT), folder)
    vision = _vision_tower(read, _below(read.state, _VISION), folder)
    values = as_float32({name: read.state[name] for name in _PROJECTIONS}, read.file)
    projections = [values[name] for name in _PROJECTIONS]
    widths = (text.config.width, vision.config.width)
    shapes = [tuple(each.shape) for each in projections]
    if (
        any(len(shape) != 2 for shape in shapes)
        or shapes[0][0] != shapes[1][0]
        or widths != (shapes[0][1], shapes[1][1])
    ):
        raise CheckpointError(
            f"{read.file}: the projections are of shapes {shapes[0]} and {shapes[1]}, and the towers of widths "
            f"{widths[0]} and {widths[1]}; they do not belong together."
        )
    return Clip(text, vision, *projections).eval().requires_grad_(False)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _vision_tower(read: Weights, state: dict[str, Tensor], folder: Path) -> VisionTower:
    state.pop(_NO_WEIGHT, None)
    path = folder / "config.json"
    values = read.config.get("vision_config")
    if values is None:
        raise CheckpointError(f"{path} has no vision_config; fetch that of the whole CLIP model.")
    sizes = agreeing_sizes(_measured(state, read.file), values, _NAMES, _ABSENT, path)
    try:
        config = VisionConfig(**sizes)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    with torch.device("meta"):
        tower = VisionTower(config)
    require_layout(tower, state, read.file, "a CLIP vision tower")
    tower.load_state_dict(as_float32(state, read.file), assign=True)
    return tower


def _measured(state: Mapping[str, Tensor], file: Path) -> dict[str, int]:
    try:
        (width, _, patch, _), (positions, _), (hidden, _) = (
            state[name].shape for name in (_PATCH, _POSITIONS, _HIDDEN)
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is not a CLIP vision tower: {error} is missing or has another shape.") from error
    side = round((positions - 1) ** 0.5)
    return {"width": width, "layers": count_layers(state), "hidden": hidden, "size": side * patch, "patch": patch}
