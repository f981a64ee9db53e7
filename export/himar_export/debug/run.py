"""`himar-export debug`: the layers of one component against its float32 reference, and which must stay in float32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from himar_kernels import BuildError, InputError
from himar_runtime import Bundle

from ..graph.emulate import Arrays, Graph, emulated, feeding, read_graph
from ..graph.layers import ATTENTION, Layer
from ..verify.calls import Feed
from ..verify.limits import COMPONENT_LIMIT, stated_precisions
from .inputs import recorded_inputs
from .runs import LayerError, Values, layer_errors, output_error, reference, run
from .search import Found, search

if TYPE_CHECKING:
    from ..graph.component import Component
    from ..graph.precision_choice import Precision

Progress = Callable[[str, float], None]

NOISE = 1e-5
"""Relative error below which two float32 computations agree: their sums differ in order."""


@dataclass(frozen=True)
class DebugRequest:
    """What to look at.

    Attributes:
        bundle: folder of a bundle.
        component: one of its components.
        precision: to look at the component in; None for the bundle's. Another one takes the checkpoint.
        checkpoint: what the bundle was built from, whose weights the reference has; None for the bundle's own weights,
            which are rounded, and wrong where they were damaged. weights: set of them, as for BuildRequest.
        vae, text: where the component comes from these.
        recording, case: run whose inputs the component gets; None for the bundle's self-test.
        limit: largest relative L2 that passes; None for what `verify` takes for the precision.
    """

    bundle: Path
    component: str
    precision: Precision | None = None
    checkpoint: Path | None = None
    weights: str | None = None
    vae: Path | None = None
    text: Path | None = None
    recording: Path | None = None
    case: str | None = None
    limit: float | None = None


@dataclass(frozen=True)
class DebugReport:
    """What was found.

    Attributes:
        precision, limit: as looked at.
        against: what the reference is, in words.
        calls: of the component that were looked at.
        output_error: largest relative L2 of an output.
        eager_error: of the reference's outputs against PyTorch's; None without a checkpoint.
        layers: every layer in order, the outputs last.
        first: the first layer beyond the limit; None if there is none.
        culprit: the first layer whose own error is beyond it; None if there is none.
        kept: layers that must stay in float32; None where nothing is in half precision.
    """

    component: str
    precision: str
    limit: float
    against: str
    calls: int
    output_error: float
    eager_error: float | None
    layers: tuple[LayerError, ...]
    first: str | None
    culprit: str | None
    kept: Found | None

    @property
    def passed(self) -> bool:
        """Whether the outputs are within the limit."""
        return self.output_error <= self.limit


def debug(request: DebugRequest, progress: Progress = lambda text, fraction: None) -> DebugReport:
    """Compare a component's layers with the float32 reference on real inputs.

    Raises:
        BundleError: the bundle is damaged or missing.
        InputError: the component is unknown or has nothing to compare, or the recording never calls it.
        BuildError, CheckpointError, ConfigError: the checkpoint does not fit the bundle, or cannot be exported.
    """
    bundle = Bundle.open(request.bundle)
    stated = stated_precisions(bundle)
    if request.component not in stated:
        raise InputError(f"{request.bundle} has no component {request.component!r}; it has {', '.join(stated)}.")
    precision = request.precision or stated[request.component]
    if precision in ("int8", "fp8"):
        raise InputError(
            f"{request.component} of {request.bundle} is in {precision}, and layers are found in fp32, fp16 and bf16; "
            f"give --precision fp16 with --checkpoint to look at the same component there."
        )
    if request.checkpoint is None and precision != stated[request.component]:
        raise InputError(
            f"{request.component} of {request.bundle} is in {stated[request.component]}; to look at it in {precision}, "
            f"give what the bundle was built from with --checkpoint."
        )
    if request.checkpoint is None and precision == "fp32":
        raise InputError(
            f"{request.component} of {request.bundle} is in fp32, so there is nothing to compare it with; give what it "
            f"was built from with --checkpoint."
        )
    progress(f"taking inputs of {request.component}", 0.0)
    feeds = recorded_inputs(bundle, request.component, request.recording, request.case)
    file = bundle.path(bundle.manifest.components[request.component].file)
    exact: Arrays = {}
    part = None
    with TemporaryDirectory(prefix="himar-debug.") as folder:
        if request.checkpoint is not None:
            progress("exporting from the checkpoint", 0.2)
            part = _component(request, bundle)
            if precision != stated[request.component]:
                file = _exported(part, precision, Path(folder) / "looked-at")
            exact = _exact_weights(part, precision, Path(folder) / "exact")
        graph = read_graph(file)
    if exact:
        _require_same_weights(graph, exact, request)
    progress("computing the reference", 0.5)
    expected = reference(graph, exact, feeds)
    eager_error = None if part is None else _eager_error(part, graph, feeds, expected)
    progress("computing every layer", 0.6)
    limit = request.limit or COMPONENT_LIMIT[precision]
    layers = layer_errors(graph, expected, feeds)
    error = _output_error(graph, layers)
    progress("searching what must stay in float32", 0.8)
    kept = _search(graph, exact, feeds, expected, layers, limit) if graph.half is not None else None
    progress("done", 1.0)
    return DebugReport(
        request.component,
        precision,
        limit,
        f"float32 with the weights of {request.checkpoint or 'the bundle'}",
        len(feeds),
        error,
        eager_error,
        tuple(layers),
        next((each.name for each in layers if not each.error <= limit), None),
        next((each.name for each in layers if each.own is not None and not each.own <= limit), None),
        kept,
    )


def _output_error(graph: Graph, layers: list[LayerError]) -> float:
    outputs = {each.name for each in graph.model.graph.output}
    ends = [error for layer, error in zip(graph.layers, layers, strict=True) if layer.output in outputs]
    return max(each.error for each in ends)


def _search(
    graph: Graph, exact: Arrays, feeds: list[Feed], expected: list[Values], layers: list[LayerError], limit: float
) -> Found:
    own = {error.name: np.inf if error.own is None else error.own for error in layers}
    by_module: dict[str, list[Layer]] = {}
    for layer in graph.half_layers():
        by_module.setdefault(layer.module, []).append(layer)
    reached = _reached(graph, own)

    def measure(kept: Collection[str]) -> float:
        found = run({"trial": emulated(graph, kept, exact)}, feeds)["trial"]
        return output_error(graph, found, expected)

    def suspicion(module: str) -> float:
        return max(reached[layer.output] for layer in by_module[module])

    return search(list(by_module), suspicion, measure, limit)


def _reached(graph: Graph, own: Mapping[str, float]) -> dict[str, float]:
    """Return for every layer's value the largest own error of the layer and of attentions that it makes.

    Attention runs in float32 where its queries, keys and values are, so its error is theirs to avoid.
    """
    reads, worst = feeding(graph), {layer.output: own[layer.name] for layer in graph.layers}
    for layer in graph.layers:
        if layer.kind == ATTENTION:
            for value in reads[layer.output]:
                worst[value] = max(worst[value], own[layer.name])
    return worst


def _component(request: DebugRequest, bundle: Bundle) -> Component:
    """Return the component of the checkpoint, with the float32 layers that the bundle has."""
    from himar.family import open_model

    from ..families.family import export_family
    from ..graph.fp32_layers import keep_in_float32
    from ..graph.precision_choice import check_precision
    from ..make.assemble import bundle_parts, load_fitting_vae
    from ..make.text import load_fitting_text

    manifest = bundle.manifest
    config = export_family(manifest.family).config_of(manifest)
    assert request.checkpoint is not None
    model, _ = open_model(request.checkpoint, config, weights=request.weights, wanted=manifest.family)
    vae, text = load_fitting_vae(request.vae, model), load_fitting_text(request.text, model)
    parts = {part.name: part for part in bundle_parts(manifest, model, vae, text)}
    if request.component not in parts:
        raise InputError(
            f"{request.component} is not made from {request.checkpoint} alone; give --vae or --text, as for build."
        )
    stated = stated_precisions(bundle)[request.component]
    layers = manifest.raw["components"][request.component].get("fp32_layers", [])
    if not layers or request.precision not in (None, stated):
        return parts[request.component]
    precisions = {request.component: check_precision(stated, request.component)}
    (part,) = keep_in_float32([parts[request.component]], precisions, {request.component: layers})
    return part


def _exported(part: Component, precision: str, folder: Path) -> Path:
    from ..graph.onnx_export import to_onnx
    from ..graph.precision_choice import check_precision
    from ..make.weights import weight_file

    folder.mkdir()
    weights = weight_file(folder)
    with weights.stream:
        model = to_onnx(part, check_precision(precision, part.name), weights)
    onnx.save(model, folder / f"{part.name}.onnx")
    return folder / f"{part.name}.onnx"


def _exact_weights(part: Component, precision: str, folder: Path) -> Arrays:
    """Return the unrounded weights of a component by their names in its graph of this precision.

    A half-precision graph may have other weights than the float32 one: biases that moved, matmuls that were merged. So
    it is exported with every layer in float32.
    """
    from ..graph.fp32_layers import layer_names, widened
    from ..graph.precision_choice import check_precision

    known = check_precision(precision, part.name)
    if known != "fp32":
        names, graph = layer_names(part, known), part.graph
        part = replace(part, graph=lambda dtype: widened(graph(dtype), names))
    model = onnx.load(_exported(part, precision, folder))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _require_same_weights(graph: Graph, exact: Arrays, request: DebugRequest) -> None:
    """Raise BuildError unless both have the same weights; a fused norm may have ones and zeros that are in no other."""
    multiplied = {layer.weight for layer in graph.layers}
    for tensor in graph.model.graph.initializer:
        found = exact.get(tensor.name)
        if found is None and tensor.name not in multiplied:
            continue
        if found is None or tuple(found.shape) != tuple(tensor.dims):
            raise BuildError(
                f"{request.component} of {request.bundle} has a weight {tensor.name} {list(tensor.dims)} that this "
                f"version of himar does not export from {request.checkpoint}; build the bundle anew."
            )


def _eager_error(part: Component, graph: Graph, feeds: list[Feed], expected: list[Values]) -> float:
    """Return how far the reference's outputs are from those of the component's module in PyTorch."""
    import torch

    module = part.graph(torch.float32).eval()
    found = []
    with torch.inference_mode():
        for feed in feeds:
            outputs: Any = module(*(torch.from_numpy(feed[spec.name]) for spec in part.inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            found.append({spec.name: each.numpy() for spec, each in zip(part.outputs, outputs, strict=True)})
    return output_error(graph, found, expected)
