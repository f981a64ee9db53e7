"""Tokenizers from their checkpoints, with sizes read off the shapes, and the check that a model belongs to one (§2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from himar.loading.checkpoint_files import read_weights
from himar.loading.files import write_safetensors
from himar.loading.weight_sets import Network
from himar.loading.weight_values import as_float32
from himar_kernels import CheckpointError, ConfigError

from ..config import ModelConfig
from .network import Tokenizer
from .sizes import TokenizerConfig

_TOKENIZER = Network("multi-scale tokenizer", ("quantize.embedding.weight",), "himar strip FILE OUT --weights NAME")
_COUNTER = "quantize.ema_vocab_hit_SV"
"""How often training used a code: no weight, and its rows need not be the model's scales."""
_GROUPS = "himar_norm_groups"


def load_tokenizer(path: str | Path, config: ModelConfig | None = None, *, groups: int | None = None) -> Tokenizer:
    """Load a tokenizer in float32, frozen, from a file, a folder or an index of shards.

    Args:
        path: the released layout, in any wrapper that `himar.loading` takes off.
        config: of the model that it is to serve, which says its norm groups; the two are checked against each other.
        groups: norm groups where there is no configuration; None takes a file of ours at its word, else 32.

    Raises CheckpointError when the file is missing, damaged, unsafe or no such tokenizer, ConfigError when it is not
    the model's.
    """
    path = Path(path)
    read = read_weights(path, network=_TOKENIZER)
    stored = {name: tensor for name, tensor in read.state.items() if name != _COUNTER}
    if groups is None:
        groups = config.vae_groups if config is not None else int(read.metadata.get(_GROUPS, TokenizerConfig.groups))
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    try:
        sizes = measure_tokenizer(shapes, groups)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    with torch.device("meta"):
        tokenizer = Tokenizer(sizes)
    _compare({name: tuple(value.shape) for name, value in tokenizer.state_dict().items()}, shapes, path)
    tokenizer.load_state_dict(as_float32(stored, path), assign=True)
    if config is not None:
        require_fit(tokenizer, config, str(path))
    return tokenizer.eval().requires_grad_(False)


def save_tokenizer(tokenizer: Tokenizer, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a tokenizer as safetensors, in one move; `dtype` is that on disk."""
    tensors = {name: tensor.to(dtype) for name, tensor in tokenizer.state_dict().items()}
    write_safetensors(Path(path), tensors, {_GROUPS: str(tokenizer.config.groups)})


def measure_tokenizer(shapes: Mapping[str, Sequence[int]], groups: int) -> TokenizerConfig:
    """Read every size but the norm groups off a state dict's shapes. Raises CheckpointError if they are no tokenizer's.

    ConfigError: the groups do not divide the width.
    """
    try:
        ch = shapes["encoder.conv_in.weight"][0]
        levels = len({match[1] for name in shapes if (match := re.match(r"encoder\.down\.(\d+)\.", name))})
        widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
        blocks = {match[1] for name in shapes if (match := re.match(r"encoder\.down\.0\.block\.(\d+)\.", name))}
        vocab, channels = shapes["quantize.embedding.weight"]
    except KeyError as error:
        raise CheckpointError(f"this is not a multi-scale tokenizer's state dict: it has no {error}.") from error
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"this is not a multi-scale tokenizer's state dict: {error}.") from error
    return TokenizerConfig(
        ch=ch,
        ch_mult=tuple(width // ch for width in widths),
        latent_channels=channels,
        vocab=vocab,
        groups=groups,
        num_res_blocks=len(blocks),
        attention_levels=tuple(i for i in range(levels) if f"encoder.down.{i}.attn.0.qkv.weight" in shapes),
    )


def require_fit(tokenizer: Tokenizer, config: ModelConfig, source: str) -> None:
    """Raise ConfigError, naming `source`, unless the tokenizer's codes are those that the model predicts."""
    theirs = tokenizer.config
    pairs = (
        ("codes", theirs.vocab, config.vocab),
        ("channels of a code", theirs.latent_channels, config.latent_channels),
        ("pixels per side of a cell", tokenizer.stride, config.vae_stride),
        ("base width", theirs.ch, theirs.ch if config.vae_ch is None else config.vae_ch),
        ("norm groups", theirs.groups, config.vae_groups),
    )
    for what, found, asked in pairs:
        if found != asked:
            raise ConfigError(
                f"{source} is not the model's tokenizer: its {what} are {found}, but the model asks for {asked}; bring "
                f"the tokenizer that the model was trained with."
            )


def _compare(expected: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    for name in [*expected, *shapes]:
        ours, theirs = expected.get(name), shapes.get(name)
        if ours is None or theirs is None:
            verb = "lacks" if theirs is None else "has an unknown"
            raise CheckpointError(f"{path} is not a multi-scale tokenizer of the released layout: it {verb} {name}.")
        if tuple(ours) != tuple(theirs):
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(theirs)}, but the rest of the tokenizer asks for {tuple(ours)}."
            )
