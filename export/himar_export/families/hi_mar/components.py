"""Describes a model's components: a transformer and a head for each of its phases, and the VAE's decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.dit_head import DiTHead
from himar.families.hi_mar.mlp_head import MLPHead
from himar.families.hi_mar.model import HiMAR
from himar.vae.autoencoder import AutoencoderKL
from himar_export.graph.component import Component, Profile
from himar_export.graph.precision import value_type
from himar_export.graph.precision_choice import Precision
from himar_export.graph.style import GraphStyle
from himar_export.graph.vae_decoder import VaeDecoder
from himar_export.graph.vae_encoder import VaeEncoder
from himar_kernels.families.hi_mar import guide_rows, index_lists
from himar_kernels.families.hi_mar.phases import PhaseInfo
from himar_kernels.families.registry import VAE_ENCODER
from himar_runtime import TensorSpec
from himar_runtime.decode import DECODE_BATCH

from .heads import DiTHeldGraph, DiTModulationsGraph, head_graph, held_tensors
from .phases import condition_width, model_info, phase_head
from .transformer import TransformerHigh, TransformerHighEdit, TransformerLow, TransformerSingle

__all__ = ["Component", "Profile", "components"]


def components(
    model: HiMAR, vae: AutoencoderKL | None, max_batch: int, backend: str = "tensorrt"
) -> tuple[Component, ...]:
    """Return the contracts of a model's components: the transformers of its phases, their heads, then the decoder.

    Without a VAE there is no decoder among them. backend: runs the graphs, which are in its style (`GraphStyle.of`).
    """
    phases = model_info(model.config).phases
    parts = [_transformer(model, phase, max_batch, backend) for phase in phases]
    parts += [_head(model, phase, max_batch, backend) for phase in phases]
    if vae is not None:
        parts.append(_vae_decoder(model.config, vae, max_batch))
    return tuple(parts)


def editing(model: HiMAR, vae: AutoencoderKL, max_batch: int, backend: str = "tensorrt") -> tuple[Component, ...]:
    """Return the contracts of what edits run besides: the encoder, and phase high's transformer with guides."""
    info = model_info(model.config)
    encoder = _vae_encoder(model.config, vae, max_batch)
    if info.edit_transformer is None:
        return (encoder,)
    return encoder, _transformer(model, info.phase("high"), max_batch, backend, info.edit_transformer)


def _transformer(model: HiMAR, phase: PhaseInfo, max_batch: int, backend: str, editing: str | None = None) -> Component:
    """What rows show, pivots where the phase takes them, tokens and index lists in; pivots left, and condition, out.

    editing: name of the transformer of edits, which takes guides too; None of the phase's own.
    """
    c = model.config
    n, K, always = phase.positions, c.buffer, phase.always
    width = condition_width(phase_head(model, phase.name))
    if c.context_shape is None:
        shown = TensorSpec("class_row", "int64", ("rows",))
    else:
        shown = TensorSpec("context", "float32", ("rows", *c.context_shape))
    guide = (TensorSpec("pivots", "float32", ("rows", always, phase.pivot_width)),) if phase.pivot_width else ()
    guides = () if editing is None else (TensorSpec("guides", "int64", ("rows", always)),)
    tokens = TensorSpec(phase.tokens, "float32", ("rows", n, c.channels))
    left = (TensorSpec("pivots", "float32", ("rows", n, c.width)),) if phase.leaves_pivots else ()
    graph = TransformerSingle if c.single_scale else TransformerLow if phase.name == "low" else TransformerHigh
    if editing is not None:
        graph = TransformerHighEdit

    def samples(rows: int) -> dict[str, Tensor]:
        first = torch.arange(rows) % (c.classes + 1) if c.context_shape is None else _normal(rows, *c.context_shape)
        return {
            shown.name: first,
            **{
                spec.name: _every_second(rows, always)
                if spec in guides
                else _normal(rows, *(int(size) for size in spec.shape[1:]))
                for spec in (*guide, *guides, tokens)
            },
            **_indices(c, rows, embedded=always + n, known=always + n // 2),
        }

    return Component(
        editing or phase.transformer,
        (
            shown,
            *guide,
            *guides,
            tokens,
            TensorSpec("visible", "int64", ("rows", "kept")),
            TensorSpec("sources", "int64", ("rows", K + c.positions)),
        ),
        (*left, TensorSpec("condition", "float32", ("rows", n, width))),
        {"rows": _rows(max_batch), "kept": (K + always, K + always + n // 2, K + always + n - 1)},
        lambda dtype: graph(model, GraphStyle.of(backend, dtype)),
        ("cond_proj.", "z_proj.", "cond_embed.", "c_embedder.", "text_proj."),
        samples,
    )


def _head(model: HiMAR, phase: PhaseInfo, max_batch: int, backend: str) -> Component:
    """An MLP head takes samples, the revealed positions of all rows; a DiT head takes rows of all n positions."""
    head = phase_head(model, phase.name)
    n, C, width = phase.positions, model.config.channels, condition_width(head)
    places: tuple[int, ...]
    if isinstance(head, MLPHead):
        axis, places, outputs = "samples", (), 2 * C
        steps = model.config.default_sampling
        revealed = max(1, n // (steps.low_steps if phase.name == "low" else steps.high_steps))
        sizes = (1, 2 * max_batch * revealed, 2 * max_batch * n)
        islands = ("input_proj.", "final.linear.")
    else:
        axis, places, outputs = "rows", (n,), C
        sizes = _rows(max_batch)
        islands = ("x_embedder.", "final.linear.")

    def graph(dtype: torch.dtype) -> nn.Module:
        return head_graph(head, GraphStyle.of(backend, dtype))

    return Component(
        phase.head,
        (
            TensorSpec("x", "float32", (axis, *places, C)),
            TensorSpec("timestep", "int64", (1,)),
            TensorSpec("condition", "float32", (axis, *places, width)),
        ),
        (TensorSpec("prediction", "float32", (axis, *places, outputs)),),
        {axis: sizes},
        graph,
        islands,
        lambda rows: {
            "x": _normal(rows, *places, C),
            "timestep": torch.tensor([500]),
            "condition": _normal(rows, *places, width),
        },
    )


def held_modulations(model: HiMAR, max_batch: int, precision: Precision) -> tuple[Component, ...]:
    """Return the two parts of each DiT head, for modulations that are held; none where there is no such head.

    precision: fp32 or fp16, which what lies between the parts has too. Their weights are the whole head's.
    """
    found: list[Component] = []
    for phase in model_info(model.config).phases:
        head = phase_head(model, phase.name)
        if phase.held is not None and isinstance(head, DiTHead):
            found += _held_parts(head, phase, phase.held, model.config.channels, max_batch, precision)
    return tuple(found)


def _held_parts(
    head: DiTHead, phase: PhaseInfo, names: tuple[str, str], channels: int, max_batch: int, precision: Precision
) -> tuple[Component, Component]:
    n, width, between = phase.positions, condition_width(head), value_type(precision)
    condition = TensorSpec("condition", "float32", ("rows", n, width))
    tensors = held_tensors(head, GraphStyle.of("onnxruntime", between))
    kind = str(between).removeprefix("torch.")
    modulations = tuple(TensorSpec(name, kind, ("rows", n, each)) for name, each in tensors.items())
    x, timestep = TensorSpec("x", "float32", ("rows", n, channels)), TensorSpec("timestep", "int64", (1,))
    prediction = TensorSpec("prediction", "float32", x.shape)
    profile = {"rows": _rows(max_batch)}
    return (
        Component(
            names[0],
            (timestep, condition),
            modulations,
            profile,
            lambda dtype: DiTModulationsGraph(head, GraphStyle.of("onnxruntime", dtype)),
            (),
            lambda rows: {"timestep": torch.tensor([500]), "condition": _normal(rows, n, width)},
        ),
        Component(
            names[1],
            (x, *modulations),
            (prediction,),
            profile,
            lambda dtype: DiTHeldGraph(head, GraphStyle.of("onnxruntime", dtype)),
            ("x_embedder.", "final.linear."),
            lambda rows: {
                "x": _normal(rows, n, channels),
                **{name: _normal(rows, n, each).to(between) for name, each in tensors.items()},
            },
        ),
    )


def _vae_decoder(c: ModelConfig, vae: AutoencoderKL, max_batch: int) -> Component:
    """Its sides are dynamic, so that the low tokens decode to a preview too; the runtime decodes few at once."""
    together = min(max_batch, DECODE_BATCH)
    low_side = c.cond_scale or c.grid
    sides = (min(low_side, c.grid), c.grid, max(low_side, c.grid))
    return Component(
        "vae_decoder",
        (TensorSpec("latent", "float32", ("images", c.channels, "height", "width")),),
        (TensorSpec("image", "float32", ("images", 3, "image_height", "image_width")),),
        {"images": (1, together, together), "height": sides, "width": sides},
        lambda dtype: VaeDecoder(vae, dtype),
        ("post_quant_conv.", "attention."),
        lambda rows: {"latent": _normal(rows, c.channels, c.grid, c.grid)},
    )


def _vae_encoder(c: ModelConfig, vae: AutoencoderKL, max_batch: int) -> Component:
    """Its sides are dynamic as the decoder's: images go through it in full size and in that of the low tokens."""
    together = min(max_batch, DECODE_BATCH)
    low_side = c.cond_scale or c.grid
    sides = (min(low_side, c.grid), c.grid, max(low_side, c.grid))
    low, usual, high = (side * c.vae_stride for side in sides)
    return Component(
        VAE_ENCODER,
        (TensorSpec("image", "float32", ("images", 3, "image_height", "image_width")),),
        (TensorSpec("latent", "float32", ("images", c.channels, "height", "width")),),
        {"images": (1, together, together), "image_height": (low, usual, high), "image_width": (low, usual, high)},
        lambda dtype: VaeEncoder(vae),
        (),
        lambda rows: {"image": torch.tanh(_normal(rows, 3, c.img_size, c.img_size))},
    )


def _rows(max_batch: int) -> tuple[int, int, int]:
    """Rows are images, doubled under guidance."""
    return (1, 2 * max_batch, 2 * max_batch)


def _indices(c: ModelConfig, rows: int, embedded: int, known: int) -> dict[str, Tensor]:
    first = torch.zeros(rows, embedded, dtype=torch.bool)
    first[:, :known] = True
    lists = index_lists(first.numpy(), c.buffer, c.positions)
    return {"visible": torch.from_numpy(lists.visible), "sources": torch.from_numpy(lists.sources)}


def _every_second(rows: int, positions: int) -> Tensor:
    """Guides of rows in which every second low position is known."""
    drawn = torch.arange(rows * positions).reshape(rows, positions) % 2 == 0
    return torch.from_numpy(guide_rows(drawn.numpy()))


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
