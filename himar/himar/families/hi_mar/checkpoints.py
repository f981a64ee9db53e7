"""Loads Hi-MAR models from checkpoints: the configuration, and sizes and variant from the tensors' shapes (§2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from himar.loading.checkpoint_files import Weights, read_weights
from himar.loading.own_files import carried_config, carried_names, require_layout, save_model
from himar.loading.weight_sets import Network
from himar.loading.weight_values import as_float32
from himar_kernels import CheckpointError, ConfigError

from .config import CONFIG_KEYS, ModelConfig, read_config, resolve
from .model import HiMAR

Shapes = Mapping[str, tuple[int, ...]]

_CONFIG_KEY = "himar_config"
ANCHOR = "z_proj.weight"
_HIMAR = Network("Hi-MAR", (ANCHOR,))
"""Under whatever prefix this name stands, there stands a Hi-MAR model."""


def load_checkpoint(
    path: str | Path,
    config: str | Path | Mapping[str, Any] | ModelConfig | None = None,
    *,
    weights: str | None = None,
) -> HiMAR:
    """Load a Hi-MAR model for inference, in float32 on the CPU.

    Args:
        path: a PyTorch checkpoint (the released layout, or any entries and prefixes), a `.safetensors`, an index of
            shards, or a folder with one of them (docs/checkpoints.md).
        config: preset name, JSON file, mapping or ModelConfig; it must give the numbers of attention heads, which
            shapes cannot tell. A safetensors file of ours carries its configuration, and a folder's config.json may:
            there it may be None, and what is given here overrides them.
        weights: the set of weights to use of several, for example "model" or "ema.shadow"; None takes "model_ema" as
            the paper does, else the one called an average, else the only one. Where it had to choose, it says so
            through the logger "himar.notices".

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or not a Hi-MAR model, or holds several sets of weights
            between which no rule chooses.
        ConfigError: the configuration is incomplete or contradicts the shapes.
    """
    return open_checkpoint(path, config, weights=weights)[0]


def open_checkpoint(
    path: str | Path,
    config: str | Path | Mapping[str, Any] | ModelConfig | None = None,
    *,
    weights: str | None = None,
) -> tuple[HiMAR, str | None]:
    """Load as `load_checkpoint` does; return the model and the entry that was used, None where there was one alone."""
    path = Path(path)
    read = read_weights(path, weights, network=_HIMAR)
    return model_from(read, path, config), read.entry or None


def model_from(read: Weights, path: Path, config: str | Path | Mapping[str, Any] | ModelConfig | None) -> HiMAR:
    """Return the model of what was read of `path`; `config` and errors as for `load_checkpoint`."""
    measured = measure({name: tuple(tensor.shape) for name, tensor in read.state.items()}, str(path))
    source = path.name if config is None else str(config) if isinstance(config, str | Path) else "config"
    carried = carried_config(read, _CONFIG_KEY, CONFIG_KEYS, read_config)
    given = {**carried, **(read_config(config) if config is not None else {})}
    if not given:
        raise ConfigError(
            f"{path} does not carry its configuration; give a preset or a JSON file with heads and dit_heads."
        )
    resolved = resolve(given, measured, source)
    with torch.device("meta"):
        model = HiMAR(resolved)
    state = as_float32(read.state, path)
    require_layout(model, state, path, "a Hi-MAR checkpoint")
    model.load_state_dict(state, assign=True)
    model.class_names = carried_names(read, resolved.classes, path)
    return model.eval().requires_grad_(False)


def save_checkpoint(model: HiMAR, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the model's tensors, configuration and class names as safetensors, in one move; `dtype` is that on disk."""
    save_model(Path(path), model, dtype, _CONFIG_KEY, model.config.to_dict(), model.class_names)


def measure(shapes: Shapes, source: str) -> dict[str, Any]:
    """Read off a state dict's names and shapes the sizes and variant that they tell (§2), as ModelConfig's fields.

    `grid` stands for img_size; sizes of a head that the model lacks are left out.

    Raises CheckpointError when they are not a Hi-MAR model's.
    """

    def size(name: str, axis: int) -> int:
        if name not in shapes or len(shapes[name]) <= axis:
            raise CheckpointError(f"{source} is not a Hi-MAR checkpoint: it has no {name} of the released layout.")
        return shapes[name][axis]

    def depth(prefix: str) -> int:
        return len({name.split(".")[prefix.count(".")] for name in shapes if name.startswith(prefix)})

    text = "text_proj.weight" in shapes
    variant = _variant(shapes)
    single = variant["pivots"] == "none"
    phases = 1 if single else 2
    low = 0 if single else size("cond_tokens", 1)
    total = size("diffusion_pos_embed_learned", 1)
    size("mask_token", 1)
    sizes = {
        "width": size("text_proj.weight", 0) if text else size("class_emb.weight", 1),
        "enc_depth": depth("encoder_blocks."),
        "dec_depth": depth("decoder_blocks."),
        **({"context_width": size("text_proj.weight", 1)} if text else {"classes": size("class_emb.weight", 0)}),
        "buffer": size("encoder_pos_embed_learned", 1) // phases - total,
        "cond_scale": math.isqrt(low),
        "grid": math.isqrt(max(total - low, 0)),
        "channels": size("z_proj.weight", 1),
    }
    prefixes = {variant["high_head"]: "diffloss" if single else "cond_diffloss"}
    if not single:
        prefixes[variant["low_head"]] = "diffloss"
    if "mlp" in prefixes:
        sizes["mlp_depth"] = depth(f"{prefixes['mlp']}.net.res_blocks.")
        sizes["mlp_width"] = size(f"{prefixes['mlp']}.net.cond_embed.weight", 0)
    if "dit" in prefixes:
        sizes["dit_depth"] = depth(f"{prefixes['dit']}.net.blocks.")
        sizes["dit_width"] = size(f"{prefixes['dit']}.net.c_embedder.proj.weight", 0)
    square = sizes["cond_scale"] ** 2 == low and sizes["grid"] ** 2 == total - low
    if not square or min(value for name, value in sizes.items() if name != "cond_scale") < 1:
        raise CheckpointError(
            f"{source} is not a Hi-MAR checkpoint of the released layout: {low} low positions of {total} are not two "
            f"square token grids."
        )
    absent = "classes" if text else "context_width"
    return {"context": "text" if text else "class", **sizes, absent: 0, **variant}


def _variant(shapes: Shapes) -> dict[str, str]:
    """What is in a state dict and what is not tells the variant (himar.families.hi_mar.presets)."""

    def kind(head: str) -> str:
        return "dit" if f"{head}.net.c_embedder.proj.weight" in shapes else "mlp"

    if "encoder_task_emb.weight" in shapes:
        scale_vector = "learned"
    else:
        scale_vector = "sinusoidal" if "encoder_blocks_ada.1.weight" in shapes else "none"
    if "cond_tokens" not in shapes:
        return {"pivots": "none", "low_head": "mlp", "high_head": kind("diffloss"), "scale_vector": scale_vector}
    pivots = "condition" if "cond_z_proj.weight" in shapes else "visual"
    heads = {"low_head": kind("diffloss"), "high_head": kind("cond_diffloss")}
    return {"pivots": pivots, **heads, "scale_vector": scale_vector}
