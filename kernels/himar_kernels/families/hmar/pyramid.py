"""From codes to the latent and back: each scale's contribution, the next scale's input, nearest codes.

docs/hmar-model.md §3. The maps are matrices (`Scales.down`, `Scales.up`), so that a graph or a kernel has plain
products where a framework would call a resize operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scales import Scales

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Codebook:
    """What a tokenizer knows of its codes: embedding (V, Cv), and Φ's convolutions (4, Cv, Cv, 3, 3), (4, Cv)."""

    embedding: F32
    weights: F32
    biases: F32


def contribution(book: Codebook, scales: Scales, scale: int, codes: NDArray[np.integer]) -> F32:
    """Return h_s = Φ(U(E[codes])), what a scale adds to the latent: float32 (B, Cv, H, H) of codes (B, T_s)."""
    return spread(book, scales, scale, book.embedding[codes])


def spread(book: Codebook, scales: Scales, scale: int, words: F32) -> F32:
    """Return Φ(U(words)): `contribution` of vectors (B, T_s, Cv) in place of codes' own."""
    return blend(book, scales.convolution(scale), resized(scales.up(scale), to_grid(words)))


def blend(book: Codebook, k: int, x: F32) -> F32:
    """Return Φ(x) = ½·x + ½·conv_k(x) of a grid (B, Cv, H, H)."""
    batch, channels, side = x.shape[:3]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = np.zeros_like(x)
    for row in range(3):
        for column in range(3):
            tap = padded[:, :, row : row + side, column : column + side].reshape(batch, channels, -1)
            # A product per image: one of all images would round an image by the size of its batch.
            total += (np.ascontiguousarray(book.weights[k, :, :, row, column]) @ tap).reshape(x.shape)
    return np.float32(0.5) * (x + total + book.biases[k][:, None, None])


def scale_input(scales: Scales, scale: int, grid: F32) -> F32:
    """Return A(grid) as tokens (B, T_s, Cv) of a grid (B, Cv, H, H).

    Of the latent before a scale it is n_s, the input of the next-scale network; of the scale's own contribution m_s,
    which the masked network takes at visible cells.
    """
    return to_tokens(resized(scales.down(scale), grid))


def resized(matrix: F32, grid: F32) -> F32:
    """Return M·grid·Mᵀ of every channel: a map between scales, applied to (B, Cv, p, p)."""
    return (matrix @ grid @ matrix.T).astype(np.float32, copy=False)


def masked_words(ahead: F32, own: F32, masked: NDArray[np.bool_]) -> F32:
    """Return n_s + m_s where a cell is visible, n_s alone where it is masked: what `word_embed` multiplies.

    ahead, own: n_s and m_s, (B, T, Cv); masked (B, T). `mask_embed` is added at masked cells after the product.
    """
    return ahead + np.where(masked[..., None], np.float32(0), own)


def decode_codes(book: Codebook, scales: Scales, codes: NDArray[np.integer]) -> F32:
    """Return f̂ after every scale, float32 (S, B, Cv, H, H), of codes (B, L). The last is what the decoder takes."""
    parts = [contribution(book, scales, s, codes[:, scales.span(s)]) for s in range(len(scales))]
    return np.cumsum(parts, axis=0, dtype=np.float32)


def encode_latent(book: Codebook, scales: Scales, latent: F32) -> NDArray[np.int64]:
    """Return codes (B, L) of the encoder's latent (B, Cv, H, H): each scale takes what the coarser ones left."""
    rest = latent.astype(np.float32)
    codes = []
    for scale in range(len(scales)):
        codes.append(nearest_codes(book.embedding, scale_input(scales, scale, rest)))
        rest = rest - contribution(book, scales, scale, codes[-1])
    return np.concatenate(codes, axis=1)


def nearest_codes(embedding: F32, words: F32) -> NDArray[np.int64]:
    """Return the code whose vector is nearest to each of words (…, Cv), the lower of two equally near. In float64."""
    table = embedding.astype(np.float64)
    apart = np.square(table).sum(axis=1) - 2 * (words.astype(np.float64) @ table.T)
    return apart.argmin(axis=-1)


def to_grid(tokens: F32) -> F32:
    """Arrange row-major tokens (B, p², Cv) as a grid (B, Cv, p, p)."""
    batch, cells, channels = tokens.shape
    side = round(cells**0.5)
    return tokens.transpose(0, 2, 1).reshape(batch, channels, side, side)


def to_tokens(grid: F32) -> F32:
    """Arrange a grid (B, Cv, p, p) as row-major tokens (B, p², Cv)."""
    batch, channels = grid.shape[:2]
    return np.ascontiguousarray(grid.reshape(batch, channels, -1).transpose(0, 2, 1))
