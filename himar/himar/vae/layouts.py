"""Loads a KL VAE from the layouts that people have, renaming its weights to LDM's, which is ours (docs/model.md §7)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from himar_kernels import CheckpointError

from ..loading.checkpoint_files import read_weights
from ..loading.weight_sets import Network
from ..loading.weight_values import as_float32
from .autoencoder import AutoencoderKL, VaeConfig

State = dict[str, Tensor]

ANCHORS = ("encoder.conv_in.weight", "decoder.conv_in.weight")
"""Under whatever prefix these stand ("first_stage_model."), there stands a VAE, in either layout."""
_KL_VAE = Network("KL VAE", ANCHORS, "himar strip FILE OUT.safetensors --weights NAME")

_NOT_OF_THE_VAE = ("loss.", "discriminator.", "perceptual_loss.", "model_ema.", "logvar")
"""What LDM's training keeps beside the VAE in one state dict."""

# diffusers' name of a module → ours, {i} a level, {j} a block; diffusers counts the decoder's levels from the smallest.
_MODULES = (
    ("encoder.down_blocks.{i}.resnets.{j}", "encoder.down.{i}.block.{j}"),
    ("encoder.down_blocks.{i}.attentions.{j}", "encoder.down.{i}.attn.{j}"),
    ("encoder.down_blocks.{i}.downsamplers.0.conv", "encoder.down.{i}.downsample.conv"),
    ("decoder.up_blocks.{i}.resnets.{j}", "decoder.up.{i}.block.{j}"),
    ("decoder.up_blocks.{i}.attentions.{j}", "decoder.up.{i}.attn.{j}"),
    ("decoder.up_blocks.{i}.upsamplers.0.conv", "decoder.up.{i}.upsample.conv"),
    *((f"{half}.mid_block.resnets.0", f"{half}.mid.block_1") for half in ("encoder", "decoder")),
    *((f"{half}.mid_block.resnets.1", f"{half}.mid.block_2") for half in ("encoder", "decoder")),
    *((f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1") for half in ("encoder", "decoder")),
    *((f"{half}.conv_norm_out", f"{half}.norm_out") for half in ("encoder", "decoder")),
)
_IN_RESNET = {"conv_shortcut": "nin_shortcut"}
_IN_ATTENTION = {
    "group_norm": "norm",
    **{"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},
}
_PRODUCTS = re.compile(r".*\.(attn\.\d+|attn_1)\.(q|k|v|proj_out)\.weight")
_EXPECTED = {
    "act_fn": ("silu", "swish"),
    "norm_num_groups": (32,),
    "shift_factor": None,
    "latents_mean": (None,),
    "latents_std": (None,),
}


def load_vae(path: str | Path) -> AutoencoderKL:
    """Load a KL VAE in float32, frozen, from a file, a folder or an index of shards (himar.loading.checkpoint_files).

    Reads the released layout, LDM's (`state_dict`, `first_stage_model.`, `loss.`), and diffusers' AutoencoderKL, whose
    config.json gives `scaling_factor`; a shift of its latents is folded into the weights.
    Raises CheckpointError when the file is missing, damaged, unsafe, not a KL VAE or not finite.
    """
    path = Path(path)
    read = read_weights(path, network=_KL_VAE)
    scaling_factor, shift = check_config(read.config, read.file.with_name("config.json"))
    try:
        state = to_own_layout(as_float32(read.state, path), path)
        config = VaeConfig.from_shapes({name: tuple(value.shape) for name, value in state.items()})
    except CheckpointError as error:
        named = str(error).startswith(str(path))
        raise CheckpointError(str(error) if named else f"{path}: {error}") from error
    if shift:
        fold_shift(state, shift)
    with torch.device("meta"):
        vae = AutoencoderKL(config)
    vae.load_state_dict(state, assign=True)
    vae.scaling_factor = scaling_factor
    return vae.eval().requires_grad_(False)


def to_own_layout(state: Mapping[str, Tensor], path: Path) -> State:
    """Return a VAE's weights under LDM's names.

    Takes LDM's own layout, with what its training keeps beside the VAE, and diffusers' AutoencoderKL in its present and
    its older names; attention matrices of shape (C, C) become (C, C, 1, 1). A VAE without `quant_conv` and
    `post_quant_conv` gets exact identities there. Names that neither layout has stay as they are.
    Raises CheckpointError when two names mean the same weight.
    """
    levels = {
        half: len({match[1] for name in state if (match := re.match(rf"{half}_blocks\.(\d+)\.", name))})
        for half in ("encoder.down", "decoder.up")
    }
    own: State = {}
    for name, tensor in state.items():
        if name.startswith(_NOT_OF_THE_VAE):
            continue
        new = _renamed(name, levels["decoder.up"])
        if new in own:
            raise CheckpointError(f"{path} holds {name} and another name of the same weight; keep one of them.")
        own[new] = tensor[:, :, None, None] if tensor.ndim == 2 and _PRODUCTS.fullmatch(new) else tensor
    _add_identities(own)
    return own


def check_config(config: Mapping[str, Any], path: Path) -> tuple[float | None, float]:
    """Return (scaling factor or None, shift of the latents) of diffusers' config.json; {} is allowed.

    Raises CheckpointError for a VAE that is another network than ours, naming the value.
    """
    kind = config.get("_class_name")
    if kind not in (None, "AutoencoderKL"):
        raise CheckpointError(f"{path} is of a {kind!s:.60}; himar reads diffusers' AutoencoderKL.")
    for name, allowed in _EXPECTED.items():
        if allowed is not None and name in config and config[name] not in allowed:
            raise CheckpointError(
                f"{path} says {name} = {config[name]!r:.60}; himar does not support that; use another VAE."
            )
    numbers = []
    for name in ("scaling_factor", "shift_factor"):
        value = config.get(name)
        finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6
        if value is not None and (not finite or (name == "scaling_factor" and value <= 0)):
            raise CheckpointError(f"{path} says {name} = {value!r:.60}; it must be a number, and a scale positive.")
        numbers.append(value)
    return numbers[0], float(numbers[1] or 0)


def fold_shift(own: State, shift: float) -> None:
    """Change a state dict in place so that its latents are those of the VAE minus `shift`, in both directions.

    diffusers' models take (latent - shift) · scale as their tokens; both 1×1 convolutions can hold that exactly.
    """
    channels = own["post_quant_conv.weight"].shape[1]
    after = own["quant_conv.bias"].float().clone()
    after[:channels] -= shift
    own["quant_conv.bias"] = after
    weight = own["post_quant_conv.weight"].float()
    own["post_quant_conv.bias"] = own["post_quant_conv.bias"].float() + shift * weight.sum(dim=(1, 2, 3))


def _renamed(name: str, up_levels: int) -> str:
    for theirs, ours in _MODULES:
        pattern = re.escape(theirs).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
        match = re.match(rf"{pattern}\.(?P<rest>.+)", name)
        if match is None:
            continue
        parts = match.groupdict()
        if theirs.startswith("decoder.up"):
            parts["i"] = str(up_levels - 1 - int(parts["i"]))
        leaf, _, kind = parts["rest"].rpartition(".")
        table = _IN_ATTENTION if "attentions" in theirs else _IN_RESNET
        rest = f"{table.get(leaf, leaf)}.{kind}" if leaf else parts["rest"]
        return f"{ours.format(**parts)}.{rest}"
    return name


def _add_identities(own: State) -> None:
    """Fill in `quant_conv` and `post_quant_conv` where a VAE has neither."""
    if any(name.startswith(("quant_conv.", "post_quant_conv.")) for name in own):
        return
    for name, source, axis in (("quant_conv", "encoder.conv_out.weight", 0), ("post_quant_conv", ANCHORS[1], 1)):
        shape = own[source].shape if source in own else ()
        if len(shape) > axis:
            own[f"{name}.weight"] = torch.eye(shape[axis])[:, :, None, None]
            own[f"{name}.bias"] = torch.zeros(shape[axis])
