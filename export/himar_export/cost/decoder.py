"""Counts the work of the VAE decoder, from sizes that its weights' shapes show (docs/model.md §7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from himar_kernels import CheckpointError

from .cost import FLOAT32, Work, attention, convolution, passing


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of a KL-VAE decoder, or of a multi-scale tokenizer's; the defaults are KL-16.

    widths: channels of each level, the first at image resolution; blocks: residual blocks per level; channels: of a
    latent; image_channels: of an image; attention_levels: levels whose blocks are followed by attention;
    mid_attention: whether the middle has attention. latent_kernel: of the convolution that latents go through first.
    """

    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    blocks: int = 3
    channels: int = 16
    image_channels: int = 3
    attention_levels: tuple[int, ...] = ()
    mid_attention: bool = True
    latent_kernel: int = 1

    @property
    def stride(self) -> int:
        """Image pixels per latent side."""
        return 2 ** (len(self.widths) - 1)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]], source: str) -> DecoderSizes:
        """Read the sizes off the shapes of a decoder's weights; CheckpointError, naming `source`, if they are not."""

        def attends(name: str) -> bool:
            return f"{name}.q.weight" in shapes or f"{name}.qkv.weight" in shapes

        levels = blocks = 0
        while f"decoder.up.{levels}.block.0.conv1.weight" in shapes:
            levels += 1
        while f"decoder.up.0.block.{blocks}.conv1.weight" in shapes:
            blocks += 1
        needed = ("post_quant_conv.weight", "decoder.conv_out.weight")
        if not levels or any(name not in shapes for name in needed):
            raise CheckpointError(f"{source} holds no KL-VAE decoder: the weights lack decoder.up or {needed[0]}.")
        return cls(
            widths=tuple(shapes[f"decoder.up.{i}.block.0.conv1.weight"][0] for i in range(levels)),
            blocks=blocks,
            channels=shapes[needed[0]][0],
            image_channels=shapes[needed[1]][0],
            attention_levels=tuple(i for i in range(levels) if attends(f"decoder.up.{i}.attn.0")),
            mid_attention=attends("decoder.mid.attn_1"),
            latent_kernel=shapes[needed[0]][-1],
        )


def exported_decoder(path: Path) -> DecoderSizes:
    """Read the sizes off a bundle's vae_decoder.onnx; needs the package onnx."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return DecoderSizes.from_shapes({each.name: tuple(each.dims) for each in graph.initializer}, str(path))


def vae_decoder(sizes: DecoderSizes, images: int, side: int, held: int = FLOAT32) -> Work:
    """Decode latents (images, channels, side, side): convolutions of `held` bytes a weight, all else float32."""
    z, wide = sizes.channels, sizes.widths[-1]
    work = convolution(images, side, z, z, sizes.latent_kernel) + convolution(images, side, z, wide, 3, held)
    work += _residual(images, side, wide, wide, held) * 2
    if sizes.mid_attention:
        work += _attention(images, side, wide, held)
    before = wide
    for level in reversed(range(len(sizes.widths))):
        width = sizes.widths[level]
        work += _residual(images, side, before, width, held)
        work += _residual(images, side, width, width, held) * (sizes.blocks - 1)
        if level in sizes.attention_levels:
            work += _attention(images, side, width, held) * sizes.blocks
        if level:
            side *= 2
            work += convolution(images, side, width, width, 3, held)
        before = width
    return work + convolution(images, side, before, sizes.image_channels, 3, held)


def _residual(images: int, side: int, inputs: int, outputs: int, held: int) -> Work:
    work = convolution(images, side, inputs, outputs, 3, held) + convolution(images, side, outputs, outputs, 3, held)
    if inputs == outputs:
        return work + passing(images * side**2 * outputs)
    return work + convolution(images, side, inputs, outputs, 1, held)


def _attention(images: int, side: int, channels: int, held: int) -> Work:
    """One head over side² positions; its matmuls are float32, its four 1×1 convolutions of `held` bytes a weight."""
    projections = convolution(images, side, channels, channels, 1, held) * 4
    return projections + attention(images, side**2, channels) + passing(images * side**2 * channels)
