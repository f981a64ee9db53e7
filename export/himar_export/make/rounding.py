"""Runs half-precision graphs with the rounding of a GPU, on a CPU whose own kernels round less.

ONNX Runtime's CPU kernels keep float32 between many operators of an fp16 graph, so a value beyond fp16's range, which
is infinite on a GPU, passes a plain run there. Each component runs here once more in emulation (`graph.emulate`), on
inputs that the self-test gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from himar_kernels import VerificationError
from himar_runtime import Bundle, Networks
from himar_runtime.engines.ort.session import onnxruntime

from ..graph.emulate import Graph, emulated, feeding, handed_over, read_graph
from ..graph.layers import Layer
from ..verify.calls import Feed, SeenEngine
from ..verify.compare import Comparison, compare
from ..verify.limits import COMPONENT_LIMIT, stated_precisions

CALLS = 2
"""Calls of a component that are emulated: what it costs is that many runs of a float32 graph."""

Values = Mapping[str, NDArray[Any]]

_LARGEST = 65504.0


class HalfCalls:
    """Watches the engines of a bundle in fp16 or fp8 while it is verified, and checks them afterwards."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._seen: dict[str, SeenEngine] = {}

    def watch(self, networks: Networks) -> Networks:
        """Return the engines, those in fp16 and fp8 watched."""
        halves = [name for name, precision in stated_precisions(self._bundle).items() if precision in ("fp16", "fp8")]
        self._seen = {name: SeenEngine(networks[name], CALLS) for name in halves if name in networks.engines}
        return Networks({**networks.engines, **self._seen}, networks.lane)

    def check(self) -> list[Comparison]:
        """Compare what each engine gave with what it gives on a GPU.

        Raises VerificationError where that differs, with the layer that is to blame and what to do.
        """
        return [self._check(name, seen) for name, seen in self._seen.items() if seen.calls]

    def _check(self, name: str, seen: SeenEngine) -> Comparison:
        graph = read_graph(self._bundle.path(self._bundle.manifest.components[name].file))
        calls = tuple(seen.calls)  # a run of the engine is a call that is seen
        found = run(emulated(graph, (), {}, marked=False), calls)
        expected = [seen.run(call) for call in calls]
        limit = COMPONENT_LIMIT[stated_precisions(self._bundle)[name]]
        comparisons = [
            compare(f"{name}: {output}, rounded as on a GPU", values[output], right[output], limit)
            for values, right in zip(found, expected, strict=True)
            for output in right
        ]
        worst = max(comparisons, key=lambda each: each.relative_l2)
        if not worst.passed:
            raise VerificationError(_refusal(name, worst, graph, calls))
        return worst


def run(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[dict[str, NDArray[Any]]]:
    """Run a graph on the CPU; return the values of every output in every call."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with TemporaryDirectory(prefix="himar-rounding.") as folder:
        graph = handed_over(model, Path(folder) / "graph.onnx")
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def _refusal(name: str, worst: Comparison, graph: Graph, calls: Sequence[Feed]) -> str:
    """Say which layer's result fp16 cannot hold; where there is none, that roundings add up."""
    how = (
        f"find what else has to be, in a bundle in fp32: himar-export debug BUNDLE --component {name} --precision fp16 "
        f"--checkpoint CHECKPOINT (docs/debugging.md)"
    )
    found = _lost(graph, run(emulated(graph, (), {}), calls), run(emulated(graph, None, {}), calls))
    if found is None:
        return (
            f"{worst.name}, differs from what ONNX Runtime's CPU kernels give by {worst.relative_l2:.2e} (limit "
            f"{worst.limit:.2e}), so the bundle was not kept; build {name} in fp32, or "
            f"{how}."
        )
    layer, what = found
    return (
        f"{what} of {name}, is beyond fp16, which ends at {_LARGEST:,.0f}, so the bundle was not kept: ONNX Runtime's "
        f"CPU kernels keep float32 there, and a GPU does not. Keep the layer in float32 with --fp32-layers "
        f"{name}={layer.module}, or {how}."
    )


def _lost(graph: Graph, rounded: Sequence[Values], exact: Sequence[Values]) -> tuple[Layer, str] | None:
    """Return the layer whose result is infinite first, or what is made of it before the next layer; and which of both.

    rounded, exact: every layer's values with the rounding of a GPU, and in float32.
    """

    def largest(layer: Layer) -> float:
        return max(float(np.abs(values[layer.output]).max(initial=0)) for values in exact)

    halves, reads = {layer.output: layer for layer in graph.lowered()}, feeding(graph)
    for layer in graph.layers:
        if all(np.isfinite(values[layer.output]).all() for values in rounded):
            continue
        if layer.output in halves and largest(layer) > _LARGEST:
            return layer, f"{largest(layer):.3g}, which is in the result of {layer.name}"
        before = [halves[value] for value in reads[layer.output] if value in halves]
        if before:
            layer = max(before, key=largest)
            return layer, f"what is made of the result of {layer.name}"
    return None
