"""The device memory of one lane: everything that the loop keeps, allocated once for the largest batch and scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from himar_kernels.arithmetic.draws import IMAGE_ORIGIN
from himar_kernels.arithmetic.launches import STATE_BYTES
from himar_kernels.families.hmar.sizes import ModelInfo
from himar_runtime.bundle.schema import ComponentSpec
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.queue.device import DeviceTensor, ResidentDevice, allocate_together

FLOAT, WORD, INDEX, BYTE = 4, 4, 8, 1
"""Bytes of a float32, uint32, int64 and uint8."""


@dataclass(frozen=True)
class Buffers:
    """Addresses of a lane's buffers; shapes for B = largest batch and T = cells of the finest scale.

    Rows are [conditional; unconditional]. What is smaller at a scale or in a batch lies at the start of its buffer.
    """

    zeros: int  # float32, as many as any input that is 0; never written again
    state: int  # a StepState of 0, for kernels that ask for a step
    fault: int  # uint32
    origins: int  # IMAGE_ORIGIN (B), what draws come from
    class_row: int  # int64 (2B)
    words: int  # float32 (2B, T, Cv)
    shown: int  # float32 (2B, T), 1 at masked cells
    x: int  # float32 (2B, T, C)
    logits: int  # float32 (2B, T, V)
    uniforms: int  # float32 (B, T), draws that the host gives
    codes: int  # int64: (B, T_s) of each scale, one after the other
    confidence: int  # float32 (B, T)
    masked: int  # uint8 (2, B, T): what a masked step redraws, and what the one after it does
    masked_next: int
    edited: int  # uint8: (B, T_s) of each scale, one after the other; the cells that an edit draws
    counts: int  # uint32: (B) of each forward; cells that the next step of an edit redraws
    grid: int  # float32 (B, Cv, H, H), a scale's codes at full size; at the end the latents that are decoded
    own: int  # float32 (B, Cv, H, H), what a scale adds to the latent
    latent: int  # float32 (B, Cv, H, H)
    preview: int  # float32 (B, Cv, H, H), the latent after a scale whose report is due
    preview_next: int  # the same after the scale after it
    image: int  # float32 (DECODE_BATCH, 3, H, W)
    pixels: int  # uint8 (B, H, W, 3)

    @classmethod
    def allocate(cls, device: ResidentDevice, model: ModelInfo, batch: int) -> Buffers:
        """Allocate everything for `batch` images as one block, and clear what stays 0."""
        sizes = buffer_sizes(model, batch)
        buffers = cls(**allocate_together(device, sizes))
        for name in ("zeros", "state"):
            device.clear(getattr(buffers, name), sizes[name])
        return buffers

    def tensor(self, name: str, *shape: int) -> DeviceTensor:
        """Return a buffer as a tensor of a shape no larger than its own."""
        return DeviceTensor(getattr(self, name), shape)

    def masked_at(self, step: int) -> int:
        """Return where the cells are marked that a masked step redraws; two steps that follow each other differ."""
        return self.masked if step % 2 else self.masked_next

    def preview_at(self, scale: int) -> int:
        """Return where the latent after a scale is kept until its report; two scales that follow each other differ."""
        return self.preview if scale % 2 else self.preview_next


def buffer_sizes(model: ModelInfo, batch: int) -> dict[str, int]:
    """Return the bytes of every buffer for `batch` images."""
    B, T, L = batch, model.scales.cells[-1], model.scales.tokens
    C, Cv, V, first = model.width, model.latent_channels, model.vocab, model.scales.cells[0]
    latent = B * Cv * model.scales.side**2 * FLOAT
    area = model.img_size**2
    return {
        "zeros": 2 * B * max(C, T, first * Cv) * FLOAT,
        "state": STATE_BYTES,
        "fault": WORD,
        "origins": B * IMAGE_ORIGIN.itemsize,
        "class_row": 2 * B * INDEX,
        "words": 2 * B * T * Cv * FLOAT,
        "shown": 2 * B * T * FLOAT,
        "x": 2 * B * T * C * FLOAT,
        "logits": 2 * B * T * V * FLOAT,
        "uniforms": B * T * FLOAT,
        "codes": B * L * INDEX,
        "confidence": B * T * FLOAT,
        "masked": B * T * BYTE,
        "masked_next": B * T * BYTE,
        "edited": B * L * BYTE,
        "counts": (L + len(model.scales)) * B * WORD,  # a forward draws at least one cell, or is a scale's first
        "grid": latent,
        "own": latent,
        "latent": latent,
        "preview": latent,
        "preview_next": latent,
        "image": min(B, DECODE_BATCH) * 3 * area * FLOAT,
        "pixels": B * area * 3 * BYTE,
    }


@dataclass(frozen=True)
class Vectors:
    """The outputs of `conditions`, which the class decides: addresses, and shapes (…) of one row."""

    addresses: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def allocate(cls, device: ResidentDevice, conditions: ComponentSpec, rows: int) -> Vectors:
        """Allocate every output of the component for `rows` rows."""
        return cls(allocate_together(device, vector_sizes(conditions, rows)), _shapes(conditions))

    def tensor(self, name: str, rows: int) -> DeviceTensor:
        """Return an output's first rows."""
        return DeviceTensor(self.addresses[name], (rows, *self.shapes[name]))

    def of_blocks(self, component: str, rows: int) -> dict[str, DeviceTensor]:
        """Return the vectors that modulate a component's blocks by the name of its input, where it has blocks."""
        return {"vectors": self.tensor(component, rows)} if component in self.shapes else {}


def vector_sizes(conditions: ComponentSpec, rows: int) -> dict[str, int]:
    """Return the bytes of every output of `conditions` for so many rows."""
    return {name: rows * math.prod(shape) * FLOAT for name, shape in _shapes(conditions).items()}


def _shapes(conditions: ComponentSpec) -> dict[str, tuple[int, ...]]:
    """Return the shapes of its outputs for one row."""
    return {tensor.name: tuple(map(int, tensor.shape[1:])) for tensor in conditions.outputs}
