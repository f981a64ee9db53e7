"""Runs single components of HMAR on both sides: one call with the same inputs, up to the bundle's contract."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

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

from ..components import components
from ..cost import networks as costs
from .eager import Networks
from .eager_components import eager_calls, run_tail, run_trunk, with_one


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
        self.calls = eager_calls(self.config)
        self.generator = torch.Generator().manual_seed(0)
        null = torch.full((batch,), self.config.classes)
        self.class_row = torch.cat([torch.tensor(workload.shown(batch)), null])
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
            return {"class_row": self.class_row}, self.calls[name], self.rows, cost
        if name == VAE_DECODER:
            images, side = min(self.batch, DECODE_BATCH), config.scales.side
            assert workload.request.decoder is not None  # every HMAR bundle has one
            latent = self._random(images, config.latent_channels, side, side)
            held = workload.request.held(name).weight
            return (
                {"latent": latent},
                self.calls[name],
                images,
                vae_decoder(workload.request.decoder, images, side, held),
            )
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
            inputs |= {"x": self._random(rows, cells, config.width), "head": with_one(head)}
        if blocks:
            inputs["vectors"] = with_one(vectors.transpose(0, 1))
        if var:
            shape = (rows, blocks, past, config.width)
            inputs |= {"keys": self._random(*shape), "values": self._random(*shape)}
        cost = part(config, rows, cells, self.workload.request.held(name), past)
        if var:
            cost += costs.kept(config, blocks, rows, cells)
        on_device = (vectors.to(self.workload.device), head.to(self.workload.device))
        return inputs, _run(name, scale, network, *on_device), rows, cost

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


def _run(name: str, scale: int, network: Network, vectors: Tensor, head: Tensor) -> Call:
    """A trunk or a tail over a scale, with vectors and head as eager has them."""

    def run(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        model = networks[0]
        if name in (TRUNK, VAR_TRUNK):
            return run_trunk(model, model.scale_input(scale, inputs["words"]), vectors, inputs)
        return run_tail(model, network, vectors, head, inputs)

    return run
