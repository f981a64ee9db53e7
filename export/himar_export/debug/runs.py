"""Runs graphs with Polygraphy's runners, and gives every layer its error: as it stands, and its own alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..graph.emulate import OUTPUT, Arrays, Graph, emulated, feeding, given_name, handed_over
from ..graph.layers import Layer
from ..verify.calls import Feed
from ..verify.compare import compare

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LayerError:
    """What became of a layer's values.

    Attributes:
        name, kind: see Layer; `output NAME` of kind output for each output of the component.
        precision: what computes them: fp32, fp16, bf16, int8 or fp8.
        error: largest relative L2 over the calls; infinite where a value is not finite and the reference's is.
        own: the same where all that the layer reads is the reference's, rounded: what the layer itself adds. None where
            half precision cannot hold what it reads.
        lost: "NaN" or "Inf" where such values are among them.
        largest: the reference's largest absolute value.
    """

    name: str
    kind: str
    precision: str
    error: float
    own: float | None
    lost: str
    largest: float


def run(models: Mapping[str, onnx.ModelProto], feeds: Sequence[Feed]) -> dict[str, list[Values]]:
    """Run graphs on the CPU; return for each, by its name, the values of every call."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

    with TemporaryDirectory(prefix="himar-debug.") as folder:
        runners = [
            OnnxrtRunner(SessionFromOnnx(handed_over(model, Path(folder) / f"{number}.onnx")), name=name)
            for number, (name, model) in enumerate(models.items())
        ]
        return compared(runners, feeds)


def compared(runners: Sequence[Any], feeds: Sequence[Feed]) -> dict[str, list[Values]]:
    """Run Polygraphy's runners on the same inputs; return for each, by its name, the values of every call."""
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = Comparator.run(list(runners), data_loader=list(feeds))
    return {name: [dict(call.items()) for call in calls] for name, calls in results.items()}


def reference(graph: Graph, exact: Arrays, feeds: Sequence[Feed]) -> list[Values]:
    """Return the float32 values of every layer in every call. exact: unrounded weights by name."""
    return run({"reference": emulated(graph, None, exact)}, feeds)["reference"]


def layer_errors(
    graph: Graph, expected: Sequence[Values], feeds: Sequence[Feed], found: Sequence[Values] | None = None
) -> list[LayerError]:
    """Return the errors of every layer that both have, against the reference's values `expected`.

    found: values of an engine; None for those of the graph, rounded as a GPU rounds. Errors of a layer's own are always
    of the graph's.
    """
    if found is None:
        found = run({"rounded": emulated(graph, (), {})}, feeds)["rounded"]
    layers = [layer for layer in graph.layers if layer.output in expected[0] and layer.output in found[0]]
    inner = [layer for layer in layers if layer.kind != OUTPUT]
    given = [
        {**feed, **{given_name(layer): values[layer.output] for layer in inner}}
        for feed, values in zip(feeds, expected, strict=True)
    ]
    axes = {layer.output: expected[0][layer.output].ndim for layer in inner}
    alone = run({"alone": emulated(graph, (), {}, axes)}, given)["alone"]
    unheld = {layer.output for layer in inner if layer.output in graph.halves and _overflows(graph, layer, expected)}
    reads = feeding(graph, {layer.output for layer in layers})
    return [
        LayerError(
            layer.name,
            layer.kind,
            graph.precision(layer),
            _worst(layer, found, expected),
            None if unheld & reads[layer.output] else _worst(layer, alone, expected),
            _lost(layer, found),
            max(float(np.abs(values[layer.output]).max(initial=0)) for values in expected),
        )
        for layer in layers
    ]


def output_error(graph: Graph, found: Sequence[Values], expected: Sequence[Values]) -> float:
    """Return the largest relative error of the component's outputs over all calls."""
    names = [each.name for each in graph.model.graph.output]
    return max(_relative(a[name], b[name]) for a, b in zip(found, expected, strict=True) for name in names)


def _worst(layer: Layer, found: Sequence[Values], expected: Sequence[Values]) -> float:
    return max(_relative(a[layer.output], b[layer.output]) for a, b in zip(found, expected, strict=True))


def _relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return compare("", found, expected, None).relative_l2


def _lost(layer: Layer, found: Sequence[Values]) -> str:
    values = [each[layer.output] for each in found]
    return "NaN" if any(np.isnan(v).any() for v in values) else "Inf" if any(np.isinf(v).any() for v in values) else ""


def _overflows(graph: Graph, layer: Layer, expected: Sequence[Values]) -> bool:
    half = np.finfo(np.float16).max if graph.half == onnx.TensorProto.FLOAT16 else np.finfo(np.float32).max
    return any(bool((np.abs(values[layer.output]) > half).any()) for values in expected)
