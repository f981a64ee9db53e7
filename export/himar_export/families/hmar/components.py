"""Lists HMAR's components: class modulation, trunk, the two tails, their VAR twins, and the tokenizer's halves."""

from __future__ import annotations

import torch
from torch import Tensor

from himar.families.hmar.config import ModelConfig
from himar.families.hmar.model import HMAR
from himar.families.hmar.tokenizer.network import Tokenizer
from himar_export.graph.component import Component
from himar_export.graph.style import GraphStyle
from himar_kernels.families.hmar import sizes
from himar_kernels.families.registry import VAE_DECODER, VAE_ENCODER
from himar_runtime import TensorSpec
from himar_runtime.decode import DECODE_BATCH

from .graphs import ConditionsGraph, TailGraph, TrunkGraph, VarTailGraph, VarTrunkGraph
from .tokenizer import DecoderGraph, EncoderGraph

_ISLANDS = ("embedding.word_embed.", "head.")


def components(model: HMAR, tokenizer: Tokenizer, max_batch: int, backend: str) -> tuple[Component, ...]:
    """Return the contracts of a model's components, in the order in which they run.

    backend: runs the graphs, which are in its style (`GraphStyle.of`). Without a masked network there is no tail of it;
    a model whose blocks are all in one of trunk and tail has no VAR twins.
    """
    make = _Maker(model, max_batch, backend)
    parts = [make.conditions(), make.trunk(), make.tail(masked=False)]
    if model.config.masked:
        parts.append(make.tail(masked=True))
    if 0 < model.config.tail < model.config.depth:
        parts += [make.var_trunk(), make.var_tail()]
    return (*parts, _decoder(model.config, tokenizer, max_batch), _encoder(model.config, tokenizer, max_batch))


class _Maker:
    """What the contracts of one model share."""

    def __init__(self, model: HMAR, max_batch: int, backend: str) -> None:
        self.model, self.config, self.backend = model, model.config, backend
        cells = model.config.scales.cells
        self.base = model.config.base
        self.rows = (1, 2 * max_batch, 2 * max_batch)
        self.axes = {"rows": self.rows, "cells": (cells[0], cells[-2], cells[-1])}
        # Sizes of sample inputs: an exporter takes a 1 for a constant.
        self.sampled = {"cells": max(2, cells[0]), "past": 3}

    def conditions(self) -> Component:
        """The class row to all vectors that modulate blocks and heads."""
        return Component(
            sizes.CONDITIONS,
            (TensorSpec("class_row", "int64", ("rows",)),),
            condition_outputs(self.config),
            {"rows": self.rows},
            lambda dtype: ConditionsGraph(self.model, GraphStyle.of(self.backend, dtype)),
            (),
            lambda rows: {"class_row": torch.arange(rows) % (self.config.classes + 1)},
        )

    def trunk(self) -> Component:
        """A scale's words to the stream between trunk and tails."""
        inputs = (
            self._words(),
            TensorSpec("masked", "float32", ("rows", "cells")),
            *self._places(),
            *self._vectors(self.base),
        )
        graph = lambda dtype: TrunkGraph(self.model, GraphStyle.of(self.backend, dtype))  # noqa: E731
        return Component(sizes.TRUNK, inputs, (self._stream(),), self.axes, graph, _ISLANDS, self._samples(inputs))

    def tail(self, masked: bool) -> Component:
        """The stream to the logits of one network."""
        model = self.model
        stack, head = (model.mask_blocks, model.mask_head) if masked else (model.ns_blocks, model.ns_head)
        inputs = (self._stream(), self._head(), *self._vectors(self.config.tail))
        name = sizes.MASKED_TAIL if masked else sizes.NEXT_SCALE_TAIL
        graph = lambda dtype: TailGraph(stack, head, GraphStyle.of(self.backend, dtype))  # noqa: E731
        return Component(name, inputs, (self._logits(),), self.axes, graph, _ISLANDS, self._samples(inputs))

    def var_trunk(self) -> Component:
        """The trunk that also attends to all coarser scales."""
        inputs = (self._words(), *self._places(), *self._vectors(self.base), *self._past(self.base))
        outputs = (self._stream(), *self._own(self.base))
        graph = lambda dtype: VarTrunkGraph(self.model, GraphStyle.of(self.backend, dtype))  # noqa: E731
        return self._var(sizes.VAR_TRUNK, inputs, outputs, graph)

    def var_tail(self) -> Component:
        """The next-scale tail that also attends to all coarser scales."""
        model, tail = self.model, self.config.tail
        inputs = (self._stream(), self._head(), *self._vectors(tail), *self._past(tail))
        outputs = (self._logits(), *self._own(tail))
        graph = lambda dtype: VarTailGraph(  # noqa: E731
            model.ns_blocks, model.ns_head, GraphStyle.of(self.backend, dtype)
        )
        return self._var(sizes.VAR_TAIL, inputs, outputs, graph)

    def _var(self, name: str, inputs, outputs, graph) -> Component:  # type: ignore[no-untyped-def]
        scales = self.config.scales
        axes = {**self.axes, "past": (0, scales.starts[-2], scales.starts[-1])}
        return Component(name, inputs, outputs, axes, graph, _ISLANDS, self._samples(inputs))

    def _words(self) -> TensorSpec:
        return TensorSpec("words", "float32", ("rows", "cells", self.config.latent_channels))

    def _places(self) -> tuple[TensorSpec, ...]:
        return TensorSpec("cells", "int64", ("cells",)), TensorSpec("start", "float32", ("rows", 1, self.config.width))

    def _stream(self) -> TensorSpec:
        return TensorSpec("x", "float32", ("rows", "cells", self.config.width))

    def _logits(self) -> TensorSpec:
        return TensorSpec("logits", "float32", ("rows", "cells", self.config.vocab))

    def _head(self) -> TensorSpec:
        return TensorSpec("head", "float32", ("rows", 2, self.config.width))

    def _vectors(self, blocks: int) -> tuple[TensorSpec, ...]:
        return (TensorSpec("vectors", "float32", ("rows", blocks, 6, self.config.width)),) if blocks else ()

    def _past(self, blocks: int) -> tuple[TensorSpec, ...]:
        shape = ("rows", blocks, "past", self.config.width)
        return TensorSpec("keys", "float32", shape), TensorSpec("values", "float32", shape)

    def _own(self, blocks: int) -> tuple[TensorSpec, ...]:
        shape = ("rows", blocks, "cells", self.config.width)
        return TensorSpec("own_keys", "float32", shape), TensorSpec("own_values", "float32", shape)

    def _samples(self, inputs: tuple[TensorSpec, ...]):  # type: ignore[no-untyped-def]
        def samples(rows: int) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(0)
            known = {"rows": rows, **self.sampled}
            given = {}
            for spec in inputs:
                shape = [known[size] if isinstance(size, str) else size for size in spec.shape]
                given[spec.name] = torch.randn(shape, generator=generator)
            if "cells" in given:
                given["cells"] = torch.arange(self.sampled["cells"])
            if "masked" in given:
                given["masked"] = (given["masked"] > 0).float()
            return given

        return samples


def condition_outputs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return the outputs of `conditions`: cond, the blocks' vectors of trunk and tails, the heads' vectors."""
    base, tail, width = config.base, config.tail, config.width
    tails = (sizes.NEXT_SCALE_TAIL, *((sizes.MASKED_TAIL,) if config.masked else ()))
    groups = [(sizes.TRUNK, base), *((name, tail) for name in tails)]
    return (
        TensorSpec("cond", "float32", ("rows", width)),
        *(TensorSpec(name, "float32", ("rows", blocks, 6, width)) for name, blocks in groups if blocks),
        *(TensorSpec(f"{name}_head", "float32", ("rows", 2, width)) for name in tails),
    )


def _decoder(config: ModelConfig, tokenizer: Tokenizer, max_batch: int) -> Component:
    """The latent, of all scales or of the first ones as a preview, to images."""
    together, side = min(max_batch, DECODE_BATCH), config.scales.side
    return Component(
        VAE_DECODER,
        (TensorSpec("latent", "float32", ("images", config.latent_channels, side, side)),),
        (TensorSpec("image", "float32", ("images", 3, config.img_size, config.img_size)),),
        {"images": (1, together, together)},
        lambda dtype: DecoderGraph(tokenizer, dtype),
        ("post_quant_conv.", "attention."),
        lambda rows: {
            "latent": torch.randn(rows, config.latent_channels, side, side, generator=torch.Generator().manual_seed(0))
        },
    )


def _encoder(config: ModelConfig, tokenizer: Tokenizer, max_batch: int) -> Component:
    """Images to the latent whose codes an edit keeps."""
    together, side = min(max_batch, DECODE_BATCH), config.scales.side
    return Component(
        VAE_ENCODER,
        (TensorSpec("image", "float32", ("images", 3, config.img_size, config.img_size)),),
        (TensorSpec("latent", "float32", ("images", config.latent_channels, side, side)),),
        {"images": (1, together, together)},
        lambda dtype: EncoderGraph(tokenizer),
        (),
        lambda rows: {
            "image": torch.rand(rows, 3, config.img_size, config.img_size, generator=torch.Generator().manual_seed(0))
        },
    )
