"""Loads CLIP's text tower from a Hugging Face folder, and writes one: config.json and safetensors.

Every size is measured from the weights' shapes; config.json gives what shapes do not tell, heads, activation and
epsilon, and must not contradict the rest. A full CLIP's vision tower and projections are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    CheckpointError: no such files, damaged, another network's, or contradicting each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the one with a CLIP model's config.json and weights.")
    read = read_weights(folder, network=_TOWER)
    return text_tower_of(read, read.state, folder)


def text_tower_of(read: Weights, state: Mapping[str, Tensor], folder: Path) -> TextTower:
    """Return the text tower, float32 and frozen, of what was read of a folder; state: its weights, prefix taken off.

    Raises CheckpointError as `load_text_tower`.
    """
    state = {name: value for name, value in state.items() if name.startswith(_PARTS) and name != _NO_WEIGHT}
    if _TOKENS not in state:
        raise CheckpointError(
            f"{read.file} holds no text tower in Hugging Face's layout: it has no {_TOKENS}, with text_model. or "
            f"without; give the folder of a CLIP model that transformers loads."
        )
    config = _config(read, state, folder)
    return _tower(config, as_float32(state, read.file), read.file).eval().requires_grad_(False)


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


def _tower(config: TextConfig, state: Mapping[str, Tensor], file: Path) -> TextTower:
    with torch.device("meta"):
        tower = TextTower(config)
    require_layout(tower, state, file, "a CLIP text tower")
    tower.load_state_dict(dict(state), assign=True)
    return tower


def _config(read: Weights, state: Mapping[str, Tensor], folder: Path) -> TextConfig:
    """Return the sizes of a text tower, from its shapes and a folder's config.json."""
    path = folder / "config.json"
    if not read.config:
        raise CheckpointError(f"{folder} has no config.json, which names a tower's heads and activation; fetch it too.")
    if (kind := read.config.get("model_type")) not in _MODEL_TYPES:
        raise CheckpointError(f"{path} is of a model of type {kind!r:.60}; himar reads CLIP's text tower.")
    values = read.config.get("text_config", read.config)
    sizes = agreeing_sizes(_measured(state, read.file), values, _NAMES, _ABSENT, path)
    try:
        return TextConfig(**sizes)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _measured(state: Mapping[str, Tensor], file: Path) -> dict[str, int]:
    try:
        (vocabulary, width), (positions, _), (hidden, _) = (
            state[name].shape for name in (_TOKENS, _POSITIONS, _HIDDEN)
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is not a CLIP text tower: {error} is missing or has another shape.") from error
    return {
        "width": width,
        "layers": count_layers(state),
        "hidden": hidden,
        "vocabulary": vocabulary,
        "positions": positions,
    }


def count_layers(state: Mapping[str, Tensor]) -> int:
    """Return how many blocks of a tower a state dict has parameters of."""
    return len({match[1] for name in state if (match := re.match(r"encoder\.layers\.(\d+)\.", name))})


def agreeing_sizes(
    measured: Mapping[str, int], values: Any, names: Mapping[str, str], absent: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Return a tower's sizes: those measured from weights, and what config.json alone says.

    values: the object of config.json that describes the tower; names: our name of a size → its key there; absent: what
    a missing key means, of those that are not measured. Raises CheckpointError where both differ or a type is wrong.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} describes its tower by {values!r:.60} and not by an object; fetch it again.")
    for name, size in measured.items():
        if (said := values.get(names[name], size)) != size:
            raise CheckpointError(
                f"{path} says {names[name]} {said!r:.60}, and the weights have {size}; take both from one model."
            )
    told = {name: values.get(names[name], default) for name, default in absent.items()}
    for name, default in absent.items():
        number = isinstance(told[name], type(default)) and not isinstance(told[name], bool)
        if not number or (name == "eps" and not 0 < told[name] < 1):
            raise CheckpointError(f"{path} says {names[name]} {told[name]!r:.60}, which is none; fetch it again.")
    return {**measured, **told}
