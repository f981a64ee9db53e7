"""Runs single components of HMAR on both sides: one call with the same inputs, up to the bundle's contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from himar.families.hmar.attention import Attend, own_scale
from himar.families.hmar.config import ModelConfig
from himar.families.hmar.model import HMAR, Conditions, Network
from himar_export.bench.component_runs import Call, ComponentCall, EagerSides, one_call
from himar_export.bench.workload import Workload
from himar_export.cost.cost import Work as Cost
from himar_export.cost.decoder import vae_decoder
from himar_kernels.families.hmar.sizes import (
    CONDITIONS,
    MASKED_TAIL,
    NEXT_SCALE_TAIL,
    TRUNK,
    VAR_TAIL,
    VAR_TRUNK,
)
from himar_kernels.families.registry import VAE_DECODER
from himar_runtime.decode import DECODE_BATCH

from ..components import components, condition_outputs
from ..cost import networks as costs
from .eager import Networks

_BLOCK_SCALES, _HEAD_SCALE = slice(2, 4), slice(0, 1)
"""Which of a block's and of a head's vectors engines take with 1 added."""


def component_calls(workload: Workload, batch: int, compiled: bool) -> list[ComponentCall]:
    """Return one call of every component that the settings run, over two rows per image.

    Scales are predicted at the finest side; a masked step is that of the finest scale that has one. The decoder takes
    at most as many images as the runtime decodes at once. Words, keys and values are random but always the same;
    vectors are those of the classes.
    """
    eager, calls = EagerSides.of(workload, compiled), _Calls(workload, batch)
    found = []
    for part in components(workload.model, workload.vae, workload.bundle.manifest.max_batch, "onnxruntime"):
        if part.name not in calls.wanted:
            continue
        inputs, call, rows, cost = calls.of(part.name)
        found.append(one_call(workload, eager, part, inputs, call, rows, batch, cost))
    return found


class _Calls:
    """The inputs of all calls at one batch size."""

    def __init__(self, workload: Workload, batch: int) -> None:
        self.workload, self.batch, self.rows = workload, batch, 2 * batch
        self.model: HMAR = workload.model
        self.config: ModelConfig = self.model.config
        self.generator = torch.Generator().manual_seed(0)
        null = torch.full((batch,), self.config.classes)
        self.class_row = torch.cat([torch.tensor(workload.labels(batch)), null])
        with torch.inference_mode():
            conditions = self.model.conditions(self.class_row.to(workload.device))
        self.conditions = Conditions(*(each.cpu() for each in conditions))
        sampling = workload.sampling
        self.masked_scale = max((s for s, counts in enumerate(sampling.schedule) if len(counts) > 1), default=0)
        networks = (VAR_TRUNK, VAR_TAIL) if sampling.all_scales else (TRUNK, NEXT_SCALE_TAIL)
        self.wanted = {CONDITIONS, *networks, VAE_DECODER, *((MASKED_TAIL,) if self.masked_scale else ())}

    def of(self, name: str) -> tuple[dict[str, Tensor], Call, int, Cost]:
        """Return a component's inputs, eager's call, rows and cost."""
        workload, config = self.workload, self.config
        if name == CONDITIONS:
            cost = costs.conditions(config, self.rows, workload.request.held(name))
            return {"class_row": self.class_row}, _conditions, self.rows, cost
        if name == VAE_DECODER:
            images, side = min(self.batch, DECODE_BATCH), config.scales.side
            assert workload.request.decoder is not None  # every HMAR bundle has one
            latent = self._random(images, config.latent_channels, side, side)
            held = workload.request.held(name).weight
            return {"latent": latent}, _decode, images, vae_decoder(workload.request.decoder, images, side, held)
        scale = self.masked_scale if name == MASKED_TAIL else len(config.scales) - 1
        return self._network(name, scale)

    def _network(self, name: str, scale: int) -> tuple[dict[str, Tensor], Call, int, Cost]:
        """Trunk or tail over a scale."""
        config, rows, cells = self.config, self.rows, self.config.scales.cells[scale]
        var = name in (VAR_TRUNK, VAR_TAIL)
        past = config.scales.starts[scale] if var else 0
        network: Network = "masked" if name == MASKED_TAIL else "next-scale"
        vectors, head = self.model.tail_vectors(self.conditions, network)
        inputs: dict[str, Tensor] = {}
        if name in (TRUNK, VAR_TRUNK):
            vectors, blocks = self.conditions.blocks[: config.base], config.base
            span = config.scales.span(scale)
            inputs["words"] = self._random(rows, cells, config.latent_channels)
            if not var:
                inputs["masked"] = torch.zeros(rows, cells)
            inputs |= {
                "cells": torch.arange(span.start, span.stop),
                "start": torch.zeros(rows, 1, config.width),
            }
            part = costs.trunk
        else:
            blocks, part = config.tail, costs.tail
            inputs |= {"x": self._random(rows, cells, config.width), "head": _plus_one(head, _HEAD_SCALE, 1)}
        if blocks:
            inputs["vectors"] = _plus_one(vectors.transpose(0, 1), _BLOCK_SCALES, 2)
        if var:
            shape = (rows, blocks, past, config.width)
            inputs |= {"keys": self._random(*shape), "values": self._random(*shape)}
        cost = part(config, rows, cells, self.workload.request.held(name), past)
        if var:
            cost += costs.kept(config, blocks, rows, cells)
        on_device = (vectors.to(self.workload.device), head.to(self.workload.device))
        return inputs, _run(scale, blocks, network, *on_device), rows, cost

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


def _plus_one(vectors: Tensor, scales: slice, axis: int) -> Tensor:
    """Return vectors as an engine takes them: 1 + scale."""
    folded = vectors.clone()
    folded[(slice(None),) * axis + (scales,)] += 1
    return folded.contiguous()


def _run(scale: int, blocks: int, network: Network, vectors: Tensor, head: Tensor) -> Call:
    """A trunk, or where there is a stream a tail; with the keys and values of coarser scales where they are given."""

    def run(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        model, own = networks[0], _Own()
        attends = own.after(inputs, model.config.heads) if "keys" in inputs else [own_scale] * blocks
        if "x" in inputs:
            outputs = {"logits": model.tail(network, inputs["x"], vectors, head, attends)}
        else:
            outputs = {"x": model.trunk(model.scale_input(scale, inputs["words"]), vectors, attends)}
        return {**outputs, **own.outputs()}

    return run


class _Own:
    """Attends to given keys and values and to a scale's own, which it keeps, as the VAR components return them."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def after(self, inputs: Mapping[str, Tensor], heads: int) -> list[Attend]:
        """Return the attention of every block; keys and values (R, blocks, P, C)."""

        def split(values: Tensor) -> Tensor:
            return values.unflatten(-1, (heads, -1)).transpose(1, 2)

        def attend(block: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
            before = split(inputs["keys"][:, block]), split(inputs["values"][:, block])

            def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                self._kept.append((k, v))
                k, v = (torch.cat([old.to(new.dtype), new], dim=2) for old, new in zip(before, (k, v), strict=True))
                return own_scale(q, k, v)

            return run

        return [attend(block) for block in range(inputs["keys"].shape[1])]

    def outputs(self) -> dict[str, Tensor]:
        """Return own_keys and own_values (R, blocks, T, C); nothing where no keys were given."""
        if not self._kept:
            return {}
        joined = (
            torch.stack([part.transpose(1, 2).flatten(2) for part in parts], dim=1)
            for parts in zip(*self._kept, strict=True)
        )
        return dict(zip(("own_keys", "own_values"), (part.float() for part in joined), strict=True))


def _conditions(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the component does: vectors by group, 1 added to scales."""
    model = networks[0]
    config = model.config
    cond, blocks, heads = model.conditions(inputs["class_row"])
    counts = [count for count in (config.base, config.tail, config.tail if config.masked else 0) if count]
    groups = [_plus_one(group.transpose(0, 1), _BLOCK_SCALES, 2) for group in blocks.split(counts)]
    groups += [_plus_one(head, _HEAD_SCALE, 1) for head in heads]
    names = [output.name for output in condition_outputs(config)]
    return dict(zip(names, (cond, *groups), strict=True))


def _decode(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"image": networks[1].decode(inputs["latent"])}
