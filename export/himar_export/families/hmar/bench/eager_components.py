"""Runs HMAR's eager networks on the inputs of single components, whatever forward of a loop they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from himar.families.hmar.attention import Attend, own_scale
from himar.families.hmar.config import ModelConfig
from himar.families.hmar.model import HMAR, Network
from himar_export.bench.component_runs import Call
from himar_kernels.families.hmar import Scales
from himar_kernels.families.hmar.sizes import (
    CONDITIONS,
    MASKED_TAIL,
    NEXT_SCALE_TAIL,
    TRUNK,
    VAR_TAIL,
    VAR_TRUNK,
)
from himar_kernels.families.registry import VAE_DECODER, VAE_ENCODER

from ..components import condition_outputs
from .eager import Networks

_BLOCK_SCALES, _HEAD_SCALE = slice(2, 4), slice(0, 1)
"""Which of a block's and of a head's vectors engines take with 1 added."""


def eager_calls(config: ModelConfig) -> dict[str, Call]:
    """Return what runs each component of a model of these sizes with its `eager_networks`, by the component's name."""
    calls: dict[str, Call] = {
        CONDITIONS: _conditions,
        TRUNK: _trunk,
        NEXT_SCALE_TAIL: _tail("next-scale"),
        VAR_TRUNK: _trunk,
        VAR_TAIL: _tail("next-scale"),
        VAE_DECODER: lambda networks, inputs: {"image": networks[1].decode(inputs["latent"])},
        VAE_ENCODER: lambda networks, inputs: {"latent": networks[1].latent(inputs["image"])},
    }
    return calls | ({MASKED_TAIL: _tail("masked")} if config.masked else {})


def run_trunk(model: HMAR, x: Tensor, vectors: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run the blocks that both networks share; x (R, T, C), vectors (blocks, R, 6, C).

    inputs: with `keys` and `values` of coarser scales where the component takes them; its own are then returned too.
    """
    own = _Own()
    return {"x": model.trunk(x, vectors, own.attends(model, inputs, len(vectors))), **own.outputs()}


def run_tail(
    model: HMAR, network: Network, vectors: Tensor, head: Tensor, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Run a network's own blocks and head; vectors (blocks, R, 6, C), head (R, 2, C), inputs as for `run_trunk`."""
    own = _Own()
    logits = model.tail(network, inputs["x"], vectors, head, own.attends(model, inputs, len(vectors)))
    return {"logits": logits, **own.outputs()}


def with_one(vectors: Tensor) -> Tensor:
    """Return blocks' vectors (R, blocks, 6, C), or a head's (R, 2, C), as an engine takes them: 1 + scale."""
    return _shifted(vectors, 1.0)


def _shifted(vectors: Tensor, by: float) -> Tensor:
    folded = vectors.clone(memory_format=torch.contiguous_format)
    folded[..., _BLOCK_SCALES if vectors.ndim == 4 else _HEAD_SCALE, :] += by
    return folded


def _of_blocks(inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Return a call's vectors as eager takes them, (blocks, R, 6, C) without 1; rows: (R, …, C), of a call without."""
    if "vectors" not in inputs:
        return rows.new_zeros(0, len(rows), 6, rows.shape[-1])
    return _shifted(inputs["vectors"], -1.0).transpose(0, 1)


def _conditions(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the component does: vectors by group, 1 added to scales."""
    model = networks[0]
    config = model.config
    cond, blocks, heads = model.conditions(inputs["class_row"])
    counts = [count for count in (config.base, config.tail, config.tail if config.masked else 0) if count]
    groups = [with_one(group.transpose(0, 1)) for group in blocks.split(counts)]
    groups += [with_one(head) for head in heads]
    names = [output.name for output in condition_outputs(config)]
    return dict(zip(names, (cond, *groups), strict=True))


def _trunk(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    model, words, start = networks[0], inputs["words"], inputs["start"]
    scale = _scale(model.config.scales, inputs["cells"])
    if not scale:
        x = model.first_input(start[:, 0])
    elif "masked" in inputs and model.config.masked:
        # What the codes so far say of the visible cells is in the words already.
        x = model.masked_input(scale, words, words.new_zeros(()), inputs["masked"].bool())
    else:
        x = model.scale_input(scale, words)
    return run_trunk(model, x, _of_blocks(inputs, start), inputs)


def _scale(scales: Scales, cells: Tensor) -> int:
    """Return the scale that has these places (T,); where two have as many cells, the host waits for the first place."""
    found = [scale for scale, count in enumerate(scales.cells) if count == len(cells)]
    return found[0] if len(found) == 1 else scales.starts.index(int(cells[0]))


def _tail(network: Network) -> Call:
    def run(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        vectors = _of_blocks(inputs, inputs["head"])
        return run_tail(networks[0], network, vectors, _shifted(inputs["head"], -1.0), inputs)

    return run


class _Own:
    """Attends to given keys and values and to a scale's own, which it keeps, as the VAR components return them."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def attends(self, model: HMAR, inputs: Mapping[str, Tensor], blocks: int) -> Sequence[Attend]:
        """Return the attention of every block; to the scale's own alone where no keys (R, blocks, P, C) are given."""
        if "keys" not in inputs:
            return [own_scale] * blocks

        def split(values: Tensor) -> Tensor:
            return values.unflatten(-1, (model.config.heads, -1)).transpose(1, 2)

        def attend(block: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
            before = split(inputs["keys"][:, block]), split(inputs["values"][:, block])

            def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                self._kept.append((k, v))
                k, v = (torch.cat([old.to(new.dtype), new], dim=2) for old, new in zip(before, (k, v), strict=True))
                return own_scale(q, k, v)

            return run

        return [attend(block) for block in range(blocks)]

    def outputs(self) -> dict[str, Tensor]:
        """Return own_keys and own_values (R, blocks, T, C); nothing where no keys were given."""
        if not self._kept:
            return {}
        joined = (
            torch.stack([part.transpose(1, 2).flatten(2) for part in parts], dim=1)
            for parts in zip(*self._kept, strict=True)
        )
        return dict(zip(("own_keys", "own_values"), (part.float() for part in joined), strict=True))
