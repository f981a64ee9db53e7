"""The five components: one contract each that export, build, allocation and parity share (design: Components)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from himar.config import ModelConfig
from himar.model import HiMAR
from himar.vae import AutoencoderKL
from himar_kernels import BuildError, index_lists
from himar_runtime import TensorSpec

from .head_graphs import DiTHeadGraph, MLPHeadGraph
from .transformer_graphs import TransformerHigh, TransformerLow
from .vae_graph import VaeDecoder

Profile = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Component:
    """One exported network.

    Attributes:
        name: as in the manifest.
        inputs, outputs: tensors in the graph's order; a string in a shape is a dynamic axis.
        profile: least, usual and largest size of every dynamic axis, for the bundle's maximum batch.
        graph: makes the exportable module with its products in the given dtype.
        islands: first parts of the names of its products that stay float32 in half precision: of few channels, or
            the last before values that the float32 diffusion or an image takes.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: Profile
    graph: Callable[[torch.dtype], nn.Module]
    islands: tuple[str, ...]
    _samples: Callable[[int], dict[str, Tensor]]

    def sample_inputs(self, rows: int) -> dict[str, Tensor]:
        """Return valid inputs by name with `rows` rows (samples, images), the same at every call."""
        return self._samples(rows)


def require_runnable(config: ModelConfig) -> None:
    """Raise BuildError unless the runtime's two phases are the model's: condition pivots, MLP head, then DiT head."""
    for name, wanted in (("pivots", "condition"), ("low_head", "mlp"), ("high_head", "dit")):
        value = getattr(config, name)
        if value != wanted:
            raise BuildError(
                f"this model's {name} is {value!r}, and engines run {wanted!r} only; sample it with himar sample."
            )


def components(model: HiMAR, vae: AutoencoderKL | None, max_batch: int) -> tuple[Component, ...]:
    """Return the contracts of a model's components; without a VAE there is no decoder among them.

    Raises BuildError for a variant whose phases the runtime cannot run.
    """
    require_runnable(model.config)
    parts = [
        _transformer_low(model, max_batch),
        _transformer_high(model, max_batch),
        _mlp_head(model, max_batch),
        _dit_head(model, max_batch),
    ]
    if vae is not None:
        parts.append(_vae_decoder(model.config, vae, max_batch))
    return tuple(parts)


def _rows(max_batch: int) -> tuple[int, int, int]:
    """Rows are images, doubled under guidance."""
    return (1, 2 * max_batch, 2 * max_batch)


def _transformer_low(model: HiMAR, max_batch: int) -> Component:
    c = model.config
    S, K = c.low_positions, c.buffer

    def samples(rows: int) -> dict[str, Tensor]:
        return {
            "class_row": torch.arange(rows) % (c.classes + 1),
            "low_tokens": _normal(rows, S, c.channels),
            **_indices(c, rows, embedded=S, known=S // 2),
        }

    return Component(
        "transformer_low",
        (
            TensorSpec("class_row", "int64", ("rows",)),
            TensorSpec("low_tokens", "float32", ("rows", S, c.channels)),
            *_index_specs(c),
        ),
        (
            TensorSpec("pivots", "float32", ("rows", S, c.width)),
            TensorSpec("condition", "float32", ("rows", S, c.mlp_width)),
        ),
        {"rows": _rows(max_batch), "kept": (K, K + S // 2, K + S - 1)},
        lambda dtype: TransformerLow(model, dtype),
        ("cond_proj.", "cond_embed."),
        samples,
    )


def _transformer_high(model: HiMAR, max_batch: int) -> Component:
    c = model.config
    S, N, K = c.low_positions, c.high_positions, c.buffer

    def samples(rows: int) -> dict[str, Tensor]:
        return {
            "class_row": torch.arange(rows) % (c.classes + 1),
            "pivots": _normal(rows, S, c.width),
            "tokens": _normal(rows, N, c.channels),
            **_indices(c, rows, embedded=S + N, known=S + N // 2),
        }

    return Component(
        "transformer_high",
        (
            TensorSpec("class_row", "int64", ("rows",)),
            TensorSpec("pivots", "float32", ("rows", S, c.width)),
            TensorSpec("tokens", "float32", ("rows", N, c.channels)),
            *_index_specs(c),
        ),
        (TensorSpec("condition", "float32", ("rows", N, c.dit_width)),),
        {"rows": _rows(max_batch), "kept": (K + S, K + S + N // 2, K + S + N - 1)},
        lambda dtype: TransformerHigh(model, dtype),
        ("z_proj.", "c_embedder."),
        samples,
    )


def _mlp_head(model: HiMAR, max_batch: int) -> Component:
    c = model.config
    return Component(
        "mlp_head",
        (
            TensorSpec("x", "float32", ("samples", c.channels)),
            TensorSpec("timestep", "int64", (1,)),
            TensorSpec("condition", "float32", ("samples", c.mlp_width)),
        ),
        (TensorSpec("prediction", "float32", ("samples", 2 * c.channels)),),
        {"samples": (1, 2 * max_batch, 2 * max_batch * c.low_positions)},
        lambda dtype: MLPHeadGraph(model.mlp_head, dtype),
        ("input_proj.", "final."),
        lambda rows: {
            "x": _normal(rows, c.channels),
            "timestep": torch.tensor([500]),
            "condition": _normal(rows, c.mlp_width),
        },
    )


def _dit_head(model: HiMAR, max_batch: int) -> Component:
    c = model.config
    N = c.high_positions
    return Component(
        "dit_head",
        (
            TensorSpec("x", "float32", ("rows", N, c.channels)),
            TensorSpec("timestep", "int64", (1,)),
            TensorSpec("condition", "float32", ("rows", N, c.dit_width)),
        ),
        (TensorSpec("prediction", "float32", ("rows", N, c.channels)),),
        {"rows": _rows(max_batch)},
        lambda dtype: DiTHeadGraph(model.dit_head, dtype),
        ("x_embedder.", "final."),
        lambda rows: {
            "x": _normal(rows, N, c.channels),
            "timestep": torch.tensor([500]),
            "condition": _normal(rows, N, c.dit_width),
        },
    )


def _vae_decoder(c: ModelConfig, vae: AutoencoderKL, max_batch: int) -> Component:
    """Its sides are dynamic, so that the low tokens decode to a preview too."""
    sides = (min(c.cond_scale, c.grid), c.grid, max(c.cond_scale, c.grid))
    return Component(
        "vae_decoder",
        (TensorSpec("latent", "float32", ("images", c.channels, "height", "width")),),
        (TensorSpec("image", "float32", ("images", 3, "image_height", "image_width")),),
        {"images": (1, max_batch, max_batch), "height": sides, "width": sides},
        lambda dtype: VaeDecoder(vae, dtype),
        ("post_quant_conv.", "attention."),
        lambda rows: {"latent": _normal(rows, c.channels, c.grid, c.grid)},
    )


def _index_specs(c: ModelConfig) -> tuple[TensorSpec, TensorSpec]:
    return (
        TensorSpec("visible", "int64", ("rows", "kept")),
        TensorSpec("sources", "int64", ("rows", c.buffer + c.positions)),
    )


def _indices(c: ModelConfig, rows: int, embedded: int, known: int) -> dict[str, Tensor]:
    first = torch.zeros(rows, embedded, dtype=torch.bool)
    first[:, :known] = True
    lists = index_lists(first.numpy(), c.buffer, c.positions)
    return {"visible": torch.from_numpy(lists.visible), "sources": torch.from_numpy(lists.sources)}


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
