"""Counts the work of one call of each of HMAR's networks, and of the maps between scales (docs/hmar-model.md §3, §4).

`held` is what the precision of a component's matmuls holds (`himar_export.cost.cost.Held`). The stream between blocks,
the words' embedding and the heads are float32. R rows, T cells of a scale, P those of all coarser ones.
"""

from __future__ import annotations

from himar.families.hmar.config import ModelConfig
from himar_export.cost.blocks import block
from himar_export.cost.cost import FLOAT32, FLOATS, Held, Work, convolution, matmul, passing, table

# As in himar.families.hmar.transformer, which imports torch; a cost needs none.
BLOCK_VECTORS, HEAD_VECTORS = 6, 2


def conditions(config: ModelConfig, rows: int, held: Held = FLOATS) -> Work:
    """Return what the class decides for all blocks and heads of both networks."""
    tails = 2 if config.masked else 1
    blocks = config.base + tails * config.tail
    return modulations(config, rows, blocks, tails, held) + passing(rows * config.width)


def modulations(config: ModelConfig, rows: int, blocks: int, heads: int, held: Held = FLOATS) -> Work:
    """Return the vectors of some blocks and heads."""
    width = config.width
    work = matmul(rows, width, BLOCK_VECTORS * width, held.weight) * blocks
    return work + matmul(rows, width, HEAD_VECTORS * width, held.weight) * heads


def embedding(config: ModelConfig, rows: int, cells: int) -> Work:
    """Embed a scale's words (R, T, Cv), with a table of its cells' places and the class at scale 0."""
    width = config.width
    return matmul(rows * cells, config.latent_channels, width) + table(cells * width) + passing(rows * width)


def blocks(config: ModelConfig, count: int, rows: int, cells: int, held: Held = FLOATS, past: int = 0) -> Work:
    """Run `count` blocks over (R, T, C); past: P, cells of coarser scales whose keys and values are read too (VAR)."""
    width = config.width
    one = block(rows, cells, width, held, past + cells) + passing(rows * BLOCK_VECTORS * width)
    return one * count


def kept(config: ModelConfig, count: int, rows: int, cells: int) -> Work:
    """Write keys and values of `count` blocks for later scales, in float32."""
    return passing(2 * rows * cells * config.width * count)


def trunk(config: ModelConfig, rows: int, cells: int, held: Held = FLOATS, past: int = 0) -> Work:
    """Embed a scale and run the blocks that both networks share."""
    return embedding(config, rows, cells) + blocks(config, config.base, rows, cells, held, past)


def tail(config: ModelConfig, rows: int, cells: int, held: Held = FLOATS, past: int = 0) -> Work:
    """Run a network's own blocks and its head to logits (R, T, V)."""
    work = blocks(config, config.tail, rows, cells, held, past) + passing(rows * HEAD_VECTORS * config.width)
    return work + matmul(rows * cells, config.width, config.vocab)


def contribution(config: ModelConfig, batch: int, scale: int) -> Work:
    """What a scale's codes add to the latent: interpolation to H × H as two products, and Φ's convolution."""
    return _map(config, batch, scale) + convolution(
        batch, config.scales.side, config.latent_channels, config.latent_channels, 3
    )


def scale_input(config: ModelConfig, batch: int, scale: int) -> Work:
    """Average a latent over the cells of a scale, as two products."""
    return _map(config, batch, scale)


def mixed(config: ModelConfig, batch: int, cells: int) -> Work:
    """Mix codes' vectors by their weights, for a smooth preview."""
    return matmul(batch * cells, config.vocab, config.latent_channels)


def _map(config: ModelConfig, batch: int, scale: int) -> Work:
    """One separable map between the sides p and H, M·x·Mᵀ of every channel: p·H·(p + H) multiply-adds."""
    small, whole = config.scales.sides[scale], config.scales.side
    grids = batch * config.latent_channels
    flops = 2 * grids * small * whole * (small + whole)
    return Work(flops, small * whole * FLOAT32, grids * (small**2 + whole**2) * FLOAT32)
