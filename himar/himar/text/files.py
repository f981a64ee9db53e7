"""Loads CLIP's text tower from a Hugging Face folder, and writes one: config.json and safetensors.

Every size is measured from the weights' shapes; config.json gives what shapes do not tell, heads, activation and
epsilon, and must not contradict the rest. A full CLIP's vision tower and projections are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from himar_kernels import CheckpointError, ConfigError
from himar_kernels.shared.files import write_json

from ..loading.checkpoint_files import Weights, read_weights
from ..loading.files import write_safetensors
from ..loading.own_files import require_layout
from ..loading.weight_sets import Network
from ..loading.weight_values import as_float32
from .tower import TextConfig, TextTower

_TOKENS, _POSITIONS = "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"
_HIDDEN = "encoder.layers.0.mlp.fc1.weight"
_TOWER = Network("CLIP text tower", (_TOKENS,))
_PARTS = ("embeddings.", "encoder.", "final_layer_norm.")
_NO_WEIGHT = "embeddings.position_ids"
_MODEL_TYPES = ("clip", "clip_text_model", None)
_NAMES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}
"""Our name of a size → Hugging Face's."""
_ABSENT = {"heads": 8, "activation": "quick_gelu", "eps": 1e-5}
"""What a config.json means by leaving a key out: the defaults of transformers' CLIPTextConfig."""


def load_text_tower(folder: str | Path) -> TextTower:
    """Load a text tower in float32, frozen, from a folder with config.json and its weights, also in shards.

    The folder is of a CLIPModel, a CLIPTextModel or one with projection, names with `text_model.` or without. Raises
    CheckpointError and ConfigError: no such files, damaged, another network's, or contradicting each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the one with a CLIP model's config.json and weights.")
    try:
        read = read_weights(folder, network=_TOWER)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} holds no text tower of Hugging Face's CLIP: {error}") from error
    state = {name: value for name, value in read.state.items() if name.startswith(_PARTS) and name != _NO_WEIGHT}
    if _TOKENS not in state:
        raise CheckpointError(
            f"{read.file} holds no text tower of Hugging Face's CLIP: it has no {_TOKENS}, with text_model. before it or "
            f"without; give the folder of the model in transformers' layout."
        )
    tower = _tower(text_config(read, state, folder), as_float32(state, read.file), read.file)
    return tower.eval().requires_grad_(False)


def save_text_tower(tower: TextTower, folder: Path) -> None:
    """Write config.json and model.safetensors, as CLIPTextModel of transformers has them, into a folder.

    Raises CheckpointError when they cannot be written.
    """
    state = {f"text_model.{name}": value for name, value in tower.state_dict().items()}
    write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
    values = {theirs: getattr(tower.config, ours) for ours, theirs in _NAMES.items()}
    last = tower.config.vocabulary - 1
    ids = {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    write_json(
        folder / "config.json",
        {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **values, **ids},
        CheckpointError,
    )


def text_config(read: Weights, state: Mapping[str, Tensor], folder: Path) -> TextConfig:
    """Return the sizes of a text tower from its shapes and a folder's config.json."""
    path = folder / "config.json"
    if not read.config:
        raise CheckpointError(f"{folder} has no config.json, which names heads and activation; fetch it too.")
    if read.config.get("model_type") not in _MODEL_TYPES:
        raise CheckpointError(
            f"{path} is of a {read.config['model_type']!r:.60} model; himar reads CLIP's text tower (clip, clip_text_model)."
        )
    values = read.config.get("text_config")
    values = values if isinstance(values, dict) else read.config
    measured = measured_sizes(state, read.file)
    for name, size in measured.items():
        if (said := values.get(_NAMES[name], size)) != size:
            raise CheckpointError(
                f"{path} says {_NAMES[name]} = {said!r:.60}, and the weights in {read.file.name} have {size}; take both "
                f"from one model."
            )
    return sized(replace(TextConfig(), **measured, heads=1), values, path)
