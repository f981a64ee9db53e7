"""Converts the VAE's values to 8-bit pixels, and arranges many images in one grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_uint8(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return RGB pixels uint8 (B, H, W, 3) of images (B, 3, H, W) in [-1, 1].

    Values outside are clipped; a pixel is (x + 1)·127.5 in float32, rounded half to even.
    """
    scaled = (np.clip(images, -1, 1).astype(np.float32) + np.float32(1)) * np.float32(127.5)
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1))


def to_values(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images float32 (B, 3, H, W) in [-1, 1] of RGB pixels uint8 (B, H, W, 3): pixel·2/255 - 1."""
    values = pixels.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def to_sheet(images: NDArray[np.uint8], columns: int, gap: int = 2) -> NDArray[np.uint8]:
    """Arrange images (B, H, W, 3) row by row in one grid (H', W', 3) on white, `gap` pixels apart.

    One image is returned as it is; fewer images than `columns` make one row of them.
    """
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), 255, np.uint8)
    cells[:count, :height, :width] = images
    cells = cells.reshape(rows, columns, height + gap, width + gap, channels).transpose(0, 2, 1, 3, 4)
    grid = cells.reshape(rows * (height + gap), columns * (width + gap), channels)
    return np.ascontiguousarray(grid[: -gap or None, : -gap or None])
