"""HMAR models from checkpoints: the three layouts, merged into one model, with sizes read off the shapes (§2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from himar.loading.checkpoint_files import Weights, read_weights
from himar.loading.own_files import carried_config, carried_names, require_layout, save_model
from himar.loading.weight_sets import Network
from himar.loading.weight_values import as_float32
from himar_kernels import CheckpointError, ConfigError
from himar_kernels.families.hmar.scales import Scales

from .config import CONFIG_KEYS, TAIL, ModelConfig, read_config, resolve
from .model import HMAR
from .model import Network as NetworkName

State = dict[str, Tensor]
Layout = Literal["merged", "next-scale", "masked"]
"""How a checkpoint is laid out: both networks in one, or one of them as training leaves it."""

_HMAR = Network("HMAR", ("pos_1LC",))
"""Under whatever prefix this name stands, there stands an HMAR network."""
_CONFIG_KEY = "himar_hmar_config"
_LEVELS = "lvl_1L"
_CONSTANTS = re.compile(r"lvl_1L|attn_bias_for_masking|(.+\.)?zero_k_bias")


def load_checkpoint(
    path: str | Path,
    config: str | Path | Mapping[str, Any] | ModelConfig | None = None,
    *,
    weights: str | None = None,
    masked: str | Path | None = None,
) -> HMAR:
    """Load an HMAR model for inference, in float32 on the CPU.

    Args:
        path: a merged checkpoint, or the next-scale network's as training leaves it: a flat state dict, a training
            checkpoint with it under `trainer.transformer_wo_ddp`, or what else `himar.loading` reads.
        config: preset name, JSON file, mapping or ModelConfig. Shapes tell a merged checkpoint's sizes, so it may be
            None; a tokenizer with other than 32 norm groups needs `vae_groups`. A file of ours carries all of it.
        weights: the set of weights to use of several, as for `himar.load_checkpoint`.
        masked: the masked network's training checkpoint, to be merged with a next-scale network's at `path`.

    Raises:
        CheckpointError: a file is missing, damaged, unsafe or not an HMAR model, or the two do not belong together.
        ConfigError: the configuration is incomplete or contradicts the shapes.
    """
    return open_checkpoint(path, config, weights=weights, masked=masked)[0]


def open_checkpoint(
    path: str | Path,
    config: str | Path | Mapping[str, Any] | ModelConfig | None = None,
    *,
    weights: str | None = None,
    masked: str | Path | None = None,
) -> tuple[HMAR, str | None]:
    """Load as `load_checkpoint` does; return the model and the entry that was used, None where there was one alone."""
    path = Path(path)
    read = read_weights(path, weights, network=_HMAR)
    return model_from(read, path, config, masked), read.entry or None


def model_from(
    read: Weights,
    path: Path,
    config: str | Path | Mapping[str, Any] | ModelConfig | None,
    masked: str | Path | None = None,
) -> HMAR:
    """Return the model of what was read of `path`; the rest and errors as for `load_checkpoint`."""
    source = path.name if config is None else str(config) if isinstance(config, str | Path) else "config"
    given = {
        **carried_config(read, _CONFIG_KEY, CONFIG_KEYS, read_config),
        **(read_config(config) if config is not None else {}),
    }
    levels, state = _split(read.state, path)
    layout = layout_of(state, path)
    if layout == "masked":
        raise CheckpointError(
            f"{path} holds the masked network alone, which cannot predict a scale; give the next-scale network's "
            f"checkpoint, and this one as the masked network's beside it."
        )
    tail = given.get("tail")
    if masked is not None:
        if layout == "merged":
            raise CheckpointError(f"{path} holds a masked network already; leave {masked} out.")
        state, tail = merge(state, _read_masked(Path(masked)), Path(masked), tail)
    elif layout == "next-scale":
        state = next_scale_alone(state, tail)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    measured = measure(shapes, levels, given.get("patch_nums"), str(path))
    resolved = resolve(given, measured, source)
    with torch.device("meta"):
        model = HMAR(resolved)
    require_layout(model, state, path, "an HMAR checkpoint")
    model.load_state_dict(state, assign=True)
    model.class_names = carried_names(read, resolved.classes, path)
    return model.eval().requires_grad_(False)


def save_checkpoint(model: HMAR, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the model's tensors, configuration and class names as safetensors, in one move; `dtype` is that on disk."""
    save_model(Path(path), model, dtype, _CONFIG_KEY, model.config.to_dict(), model.class_names)


def training_form(model: HMAR, network: NetworkName) -> State:
    """Return one of a model's networks as training leaves it, constants included; `load_checkpoint` reads it back."""
    tail, first, scales = "mask" if network == "masked" else "ns", len(model.base_blocks), model.config.scales
    other = "ns_" if network == "masked" else "mask_"
    state = {}
    for name, tensor in model.state_dict().items():
        kind, _, rest = name.partition(".")
        if name.startswith(other):
            continue
        if kind.endswith("_blocks"):
            number, _, rest = rest.partition(".")
            state[f"blocks.{int(number) + (0 if kind == 'base_blocks' else first)}.{rest}"] = tensor
        elif name == "word_embed_bias" and network == "next-scale":
            state["word_embed.bias"] = tensor
        else:
            state[name.removeprefix(f"{tail}_") if kind != "mask_embed" else name] = tensor
    levels = torch.from_numpy(scales.of_cells())
    apart = torch.zeros(len(levels), len(levels)).masked_fill(levels[:, None] != levels, -torch.inf)
    keys = {f"blocks.{block}.attn.zero_k_bias": torch.zeros(model.config.width) for block in range(model.config.depth)}
    return {**state, **keys, _LEVELS: levels[None], "attn_bias_for_masking": apart[None, None]}


def layout_of(state: Mapping[str, Tensor], path: Path) -> Layout:
    """Tell a state dict's layout from its names. Raises CheckpointError when they are none of an HMAR network."""
    if "ns_head.weight" in state:
        return "merged"
    if "head.weight" not in state or "pos_1LC" not in state:
        missing = "pos_1LC" if "pos_1LC" not in state else "ns_head.weight"
        raise CheckpointError(f"{path} is not an HMAR checkpoint: it has no {missing} of the released layout.")
    return "masked" if "mask_embed.weight" in state else "next-scale"


def next_scale_alone(state: Mapping[str, Tensor], tail: int | None = None) -> State:
    """Rename a next-scale network as training leaves it into the merged layout, without a masked network.

    tail: blocks that a masked network would have for itself; None takes the released models' 8, or all if fewer.
    """
    depth = _depth(state, "blocks")
    first = depth - min(TAIL if tail is None else tail, depth)
    return {_merged_name(name, first, "ns"): tensor for name, tensor in state.items()}


def merge(
    next_scale: Mapping[str, Tensor], masked: Mapping[str, Tensor], path: Path, tail: int | None = None
) -> tuple[State, int]:
    """Join the two networks of training into the merged layout; return it and n, the blocks that differ.

    tail: n where it is known. Everything below the last n blocks must be the same in both: the masked network is
    trained on the frozen next-scale one. Raises CheckpointError, naming `path`, the masked network's file, when it is
    not.
    """
    depth = _depth(next_scale, "blocks")
    if _depth(masked, "blocks") != depth:
        raise CheckpointError(f"{path} has {_depth(masked, 'blocks')} blocks, but the next-scale network {depth}.")
    if tail is None:
        tail = depth - next((i for i in range(depth) if not _same(next_scale, masked, f"blocks.{i}.")), depth)
    first = depth - tail
    joined = {_merged_name(name, first, "ns"): tensor for name, tensor in next_scale.items()}
    for name, tensor in masked.items():
        new = _merged_name(name, first, "mask")
        if new not in joined:
            joined[new] = tensor
        elif joined[new].shape != tensor.shape or not torch.equal(joined[new], tensor):
            raise CheckpointError(
                f"{path} was not trained from this next-scale network: {name} differs, which both share; bring the "
                f"checkpoint that its training started from."
            )
    return joined, tail


def measure(
    shapes: Mapping[str, tuple[int, ...]], levels: Tensor | None, sides: tuple[int, ...] | None, source: str
) -> dict[str, Any]:
    """Read off a merged state dict what its names and shapes tell, as ModelConfig's fields.

    levels: the scale of each cell, as the released files have it; sides: of the scales, where the file has no levels.
    Raises CheckpointError when the shapes are not an HMAR model's, ConfigError when nothing tells the sides.
    """

    def size(name: str, axis: int) -> int:
        if name not in shapes or len(shapes[name]) <= axis:
            raise CheckpointError(f"{source} is not an HMAR checkpoint: it has no {name} of the released layout.")
        return shapes[name][axis]

    tail = _depth(shapes, "ns_blocks")
    depth = _depth(shapes, "base_blocks") + tail
    if not depth:
        raise CheckpointError(f"{source} is not an HMAR checkpoint: it has no blocks.")
    stack = "base_blocks" if depth > tail else "ns_blocks"
    found: dict[str, Any] = {
        "width": size("class_emb.weight", 1),
        "depth": depth,
        "heads": size(f"{stack}.0.attn.scale_mul_1H11", 1),
        "tail": tail,
        "classes": size("class_emb.weight", 0) - 1,
        "vocab": size("ns_head.weight", 0),
        "latent_channels": size("word_embed.weight", 1),
        "masked": "mask_head.weight" in shapes,
    }
    cells, scales = size("pos_1LC", 1), size("lvl_embed.weight", 0)
    if levels is not None:
        found["patch_nums"] = _sides(levels, source)
        sides = found["patch_nums"]
    if sides is None:
        raise ConfigError(f"{source} does not say the sides of its scales; give patch_nums in the configuration.")
    told = Scales(sides)
    if (told.tokens, len(told)) != (cells, scales):
        raise ConfigError(
            f"patch_nums {list(told.sides)} are {len(told)} scales with {told.tokens} cells, but {source} has tables "
            f"for {scales} scales with {cells} cells; give the sides that the checkpoint was trained with."
        )
    return found


def _sides(levels: Tensor, source: str) -> tuple[int, ...]:
    """Sides of the scales from the scale of each cell."""
    counts = np.unique_counts(levels.cpu().numpy().reshape(-1))
    sides = tuple(round(count**0.5) for count in counts.counts.tolist())
    squares = [side**2 for side in sides] == counts.counts.tolist()
    if not squares or counts.values.tolist() != list(range(len(sides))):
        raise CheckpointError(
            f"{source}: {_LEVELS} does not number the cells of square scales; take another checkpoint."
        )
    return sides


def _merged_name(name: str, first: int, tail: str) -> str:
    """Rename one entry of a network as training leaves it; blocks from `first` on and the head are the tail's."""
    kind, _, rest = name.partition(".")
    if kind == "blocks":
        number, _, rest = rest.partition(".")
        place = int(number)
        return f"base_blocks.{place}.{rest}" if place < first else f"{tail}_blocks.{place - first}.{rest}"
    if kind in ("head", "head_nm"):
        return f"{tail}_{name}"
    return "word_embed_bias" if name == "word_embed.bias" else name


def _read_masked(path: Path) -> State:
    _, state = _split(read_weights(path, network=_HMAR).state, path)
    if layout_of(state, path) != "masked":
        raise CheckpointError(f"{path} is not a masked network as training leaves it; it has no mask_embed of its own.")
    return state


def _split(state: Mapping[str, Tensor], path: Path) -> tuple[Tensor | None, State]:
    """Return the scale of each cell and the weights in float32, without constants that follow from the sizes."""
    levels = state.get(_LEVELS)
    return levels, as_float32({name: value for name, value in state.items() if not _CONSTANTS.fullmatch(name)}, path)


def _depth(names: Mapping[str, Any], stack: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(f"{stack}.")})


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], prefix: str) -> bool:
    names = [name for name in one if name.startswith(prefix)]
    return all(name in other and torch.equal(one[name], other[name]) for name in names)
