"""Runs a component's network in PyTorch and takes what its matmuls and convolutions give, by their names in the graph.

Graphs of two precisions may have other matmuls: biases that moved, matmuls that were merged. So the network is that of
the graph that is looked at, with every layer in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..graph.component import Component
from ..graph.emulate import Graph
from ..graph.fp32_layers import layer_names, widened
from ..graph.precision import HalfConvolution, Matmul, value_type
from ..graph.precision_choice import Precision
from ..verify.calls import Feed

Take = Callable[[str, Tensor], None]


def in_float32(part: Component, precision: Precision) -> Component:
    """Return a component whose graph is that of a precision, with every layer in float32."""
    if value_type(precision) == torch.float32:
        return part
    names, graph = layer_names(part, precision), part.graph
    dtype = value_type(precision)
    return replace(part, graph=lambda _: widened(graph(dtype), names))


def eager_values(
    part: Component, precision: Precision, graph: Graph, feeds: Sequence[Feed]
) -> list[dict[str, NDArray[Any]]]:
    """Return the values of PyTorch's layers, and the outputs, by their names in `graph`, in every call."""
    module = in_float32(part, precision).graph(torch.float32).eval()
    outputs_by_layer = {layer.name: layer.output for layer in graph.layers if layer.weight}
    found = []
    for feed in feeds:
        values: dict[str, NDArray[Any]] = {}
        times: dict[str, int] = {}

        def take(name: str, value: Tensor, values: dict[str, Any] = values, times: dict[str, int] = times) -> None:
            times[name] = times.get(name, 0) + 1
            place = outputs_by_layer.get(name if times[name] == 1 else f"{name}/{times[name]}")
            if place is not None:
                values[place] = value.detach().float().numpy().copy()

        with torch.inference_mode(), _taken(module, take):
            given = (torch.from_numpy(np.asarray(feed[spec.name])) for spec in part.inputs)
            outputs: Any = module(*(each.float() if each.is_floating_point() else each for each in given))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        values |= {spec.name: each.float().numpy() for spec, each in zip(part.outputs, outputs, strict=True)}
        found.append(values)
    return found


@contextmanager
def _taken(module: nn.Module, take: Take) -> Iterator[None]:
    """Give `take` what every matmul, before its bias, and every convolution makes."""
    names = {each: name for name, each in module.named_modules()}
    hooks = [
        each.register_forward_hook(lambda layer, _, value: take(names[layer], value))
        for each in names
        if isinstance(each, nn.Conv2d | HalfConvolution)
    ]
    product = Matmul.bias_pending

    def watched(layer: Matmul, x: Tensor) -> Any:
        made = product(layer, x)
        if layer in names:
            take(names[layer], made.values)
        return made

    Matmul.bias_pending = watched  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Matmul.bias_pending = product  # type: ignore[method-assign]
        for hook in hooks:
            hook.remove()
