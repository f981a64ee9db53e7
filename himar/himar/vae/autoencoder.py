"""Defines the KL VAE between images and latents (docs/model.md §7), sized from a checkpoint's shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from himar_kernels import CheckpointError, ConfigError

from ..families.hi_mar.config import ModelConfig
from .layers import Decoder, Encoder

_LOG_VARIANCE_LIMITS = (-30.0, 20.0)


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of a KL VAE; the defaults are KL-16.

    ch: base width, a multiple of 32 (GroupNorm's groups); ch_mult: width factor per level, the first at image
    resolution; z_channels: channels of a latent; num_res_blocks: residual blocks per encoder level (decoder
    levels have one more); attention_levels: encoder levels with attention; out_channels: an image's channels;
    decoder_attention_levels: those of the decoder; mid_attention: whether both middles have attention.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    z_channels: int = 16
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (4,)
    out_channels: int = 3
    decoder_attention_levels: tuple[int, ...] = ()
    mid_attention: bool = True

    def __post_init__(self) -> None:
        if self.ch < 32 or self.ch % 32:
            raise ConfigError(f"ch is {self.ch}; it must be a multiple of 32, the number of norm groups.")
        if not self.ch_mult or min(*self.ch_mult, self.z_channels, self.num_res_blocks, self.out_channels) < 1:
            raise ConfigError(f"{self} has a size below 1; every size must be at least 1.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * factor for factor in self.ch_mult)

    @property
    def stride(self) -> int:
        """Image pixels per latent side."""
        return 2 ** (len(self.ch_mult) - 1)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> VaeConfig:
        """Read every size off a state dict's shapes; raise CheckpointError if they are not a KL VAE's."""
        try:
            ch, out_channels = tuple(shapes["encoder.conv_in.weight"])[:2]
            levels = _count(shapes, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
            widths = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
            config = cls(
                ch=ch,
                ch_mult=tuple(width // ch for width in widths),
                z_channels=shapes["post_quant_conv.weight"][0],
                num_res_blocks=_count(shapes, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight"),
                attention_levels=_attention_levels(shapes, "encoder.down", levels),
                out_channels=out_channels,
                decoder_attention_levels=_attention_levels(shapes, "decoder.up", levels),
                mid_attention=any(f"{half}.mid.attn_1.q.weight" in shapes for half in ("encoder", "decoder")),
            )
        except KeyError as error:
            raise CheckpointError(f"this is not a KL VAE's state dict: it has no {error}.") from error
        except (ConfigError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(f"this is not a KL VAE's state dict: {error}") from error
        _compare(expected_shapes(config), shapes)
        return config


def expected_shapes(config: VaeConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every parameter of a VAE of these sizes, without making its weights."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in AutoencoderKL(config).state_dict().items()}


class AutoencoderKL(nn.Module):
    """Encodes images to a normal distribution of latents and decodes latents to images.

    Latents here carry no scale: tokens are latents times `ModelConfig.vae_scale`.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.scaling_factor: float | None = None
        """What the VAE's own files say that tokens are latents times; None where they say nothing."""
        image, widths, z, middle = config.out_channels, config.widths, config.z_channels, config.mid_attention
        self.encoder = Encoder(image, widths, config.num_res_blocks, config.attention_levels, z, middle)
        self.decoder = Decoder(image, widths, config.num_res_blocks + 1, config.decoder_attention_levels, z, middle)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)

    @property
    def stride(self) -> int:
        """Image pixels per latent side."""
        return self.config.stride

    def moments(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [-1, 1] -> (B, 2·z_channels, h, w): mean, then log-variance."""
        return self.quant_conv(self.encoder(image))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 3, H, W) in [-1, 1] -> mean and log-variance, each (B, z_channels, h, w)."""
        mean, log_variance = self.moments(image).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_LIMITS)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent (B, z_channels, h, w) -> image (B, 3, h·stride, w·stride), around [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(latent))


def require_fit(vae: AutoencoderKL, config: ModelConfig, source: str) -> None:
    """Raise ConfigError, naming `source`, unless the VAE's latents are what the model's tokens are made of."""
    patches = made_of_patches(config, vae.config.z_channels, config.vae_stride / vae.stride)
    if patches:
        raise ConfigError(
            f"{source} has {vae.stride} pixels per latent side and {vae.config.z_channels} channels; {patches}"
        )
    if vae.config.z_channels != config.channels:
        raise ConfigError(
            f"{source} has latents of {vae.config.z_channels} channels, but the model's tokens have {config.channels}; "
            f"use the VAE that the model was trained with."
        )
    if vae.stride != config.vae_stride:
        raise ConfigError(
            f"{source} has {vae.stride} pixels per latent side, but the model's configuration says vae_stride "
            f"{config.vae_stride}; use the model's own VAE or correct vae_stride."
        )
    scale = vae.scaling_factor
    if scale is not None and not math.isclose(scale, config.vae_scale, rel_tol=1e-4):
        raise ConfigError(
            f"{source} says in its config.json scaling_factor {scale}, but the model's tokens are latents times "
            f"{config.vae_scale}; give vae_scale {scale} in --config if the model was trained so, or correct the VAE's."
        )


def made_of_patches(config: ModelConfig, channels: int, patch: float) -> str:
    """Return the end of a sentence that refuses a model whose tokens are patches of latents, or "".

    channels: of a latent; patch: latents per token side.
    """
    if patch <= 1 or patch % 1 or channels * patch**2 != config.channels:
        return ""
    return (
        f"the model's tokens have {config.channels} channels: they are patches of {patch:.0f} × {patch:.0f} latents, "
        f"which himar does not read; use a model with one token per latent (patch size 1)."
    )


def _attention_levels(shapes: Mapping[str, Sequence[int]], half: str, levels: int) -> tuple[int, ...]:
    return tuple(i for i in range(levels) if f"{half}.{i}.attn.0.q.weight" in shapes)


def _count(shapes: Mapping[str, Sequence[int]], pattern: str) -> int:
    found = {int(match[1]) for name in shapes if (match := re.fullmatch(pattern, name))}
    return len(found)


def _compare(expected: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]) -> None:
    for name in [*expected, *shapes]:
        ours, theirs = expected.get(name), shapes.get(name)
        if theirs is None:
            raise CheckpointError(f"this KL VAE's state dict has no {name}.")
        if ours is None:
            raise CheckpointError(f"this KL VAE's state dict has {name}, which no KL VAE of its sizes has.")
        if tuple(ours) != tuple(theirs):
            raise CheckpointError(f"{name} is {tuple(theirs)}; a KL VAE of these sizes has {tuple(ours)} there.")
