"""`himar-export debug`: the layers of one component against its float32 reference, and which must stay in float32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx

from himar_kernels import BuildError, InputError
from himar_runtime import Bundle, ComponentSpec, Device, load_engine

from ..graph.emulate import Arrays, Graph, emulated, feeding, read_graph
from ..graph.layers import ATTENTION, FP8, Layer
from ..graph.precision_choice import check_precision
from ..verify.calls import Feed
from ..verify.limits import COMPONENT_LIMIT, stated_precisions
from .choices import EAGER, EMULATE, FLOAT32, ONNXRUNTIME, TENSORRT_BACKENDS
from .inputs import recorded_inputs
from .runners import onnxruntime_values, require_runner, tensorrt_values
from .runs import LayerError, Values, layer_errors, output_error, reference, run
from .search import Found, search

if TYPE_CHECKING:
    from ..graph.component import Component
    from ..graph.precision_choice import Precision

Progress = Callable[[str, float], None]


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
        runner: what computes the layers, of RUNNERS (`choices`), on `device`, which is ONNX Runtime's to run on.
        against: what they are compared with, of REFERENCES; ONNX Runtime runs on `device` there too.
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
    runner: str = EMULATE
    device: str = "cpu"
    against: str = FLOAT32


@dataclass(frozen=True)
class DebugReport:
    """What was found.

    Attributes:
        precision, limit: as looked at.
        against: what the reference is, in words. runner: what computed the layers.
        layers_in_all: how many there are; PyTorch has no value of attentions and norms.
        calls: of the component that were looked at.
        output_error: largest relative L2 of an output.
        eager_error: of the reference's outputs against PyTorch's; None without a checkpoint.
        engine_error: of the outputs of the bundle's own engine, nothing marked; None where it was not run.
        layers: every layer in order, the outputs last.
        first: the first layer beyond the limit; None if there is none.
        culprit: the first layer whose own error is beyond it; None if there is none.
        kept: layers that must stay in float32; None where it was not searched: no layer could, or a real engine ran.
    """

    component: str
    precision: str
    limit: float
    runner: str
    against: str
    calls: int
    output_error: float
    eager_error: float | None
    engine_error: float | None
    layers_in_all: int
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
    if request.checkpoint is None and precision != stated[request.component]:
        raise InputError(
            f"{request.component} of {request.bundle} is in {stated[request.component]}; to look at it in {precision}, "
            f"give what the bundle was built from with --checkpoint."
        )
    if request.against == EAGER and request.checkpoint is None:
        raise InputError("--against eager compares with the network of a checkpoint; give it with --checkpoint.")
    if request.against == request.runner:
        raise InputError(f"--against {request.against} would compare it with itself; leave it out.")
    require_runner(request.runner, request.device, request.component, precision)
    if request.against == ONNXRUNTIME:
        require_runner(ONNXRUNTIME, request.device, request.component, precision)
    backend = str(bundle.manifest.raw["backend"]["name"])
    elsewhere = request.runner in TENSORRT_BACKENDS and backend not in TENSORRT_BACKENDS
    if elsewhere and precision == "fp8":
        raise InputError(
            f"{request.component} of {request.bundle} is in fp8 for {backend}, with scales that a checkpoint does not "
            f"have; build a bundle with --backend {request.runner}, and look at that."
        )
    if elsewhere and request.checkpoint is None:
        raise InputError(
            f"{request.component} of {request.bundle} is written for {backend}, and --runner {request.runner} needs it "
            f"as TensorRT takes it; give what the bundle was built from with --checkpoint."
        )
    if request.checkpoint is None and precision == "fp32" and request.runner == EMULATE:
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
            rewritten = request.runner if elsewhere else None
            part = _component(request, bundle, rewritten)
            if precision != stated[request.component] or rewritten is not None:
                file = _exported(part, precision, Path(folder) / "looked-at")
            if precision != "int8":  # whose weights took factors from each other
                exact = _exact_weights(part, precision, Path(folder) / "exact")
        graph = read_graph(file)
    if exact:
        _require_same_weights(graph, exact, request)
    progress("computing the reference", 0.5)
    spec = bundle.manifest.components[request.component]
    expected = _expected(request, part, precision, graph, exact, feeds)
    eager_error = None
    if part is not None and request.against != EAGER:
        from .eager import eager_values

        eager = eager_values(part, check_precision(precision, part.name), graph, feeds)
        eager_error = output_error(graph, expected, eager)
    progress("computing every layer", 0.6)
    limit = request.limit or COMPONENT_LIMIT[precision]
    layers = layer_errors(graph, expected, feeds, _found(request, graph, spec, feeds))
    error = max(each.error for each in layers if each.name in _ends(graph))
    kept, engine_error = None, None
    if request.runner == EMULATE and graph.lowered():
        progress("searching what must stay in float32", 0.8)
        kept = _search(graph, exact, feeds, expected, layers, limit)
    elif request.runner in (ONNXRUNTIME, backend) and precision == stated[request.component]:
        engine_error = output_error(graph, _by_engine(request, bundle, feeds), expected)
    progress("done", 1.0)
    return DebugReport(
        request.component,
        precision,
        limit,
        request.runner,
        _reference_in_words(request, precision),
        len(feeds),
        error,
        eager_error,
        engine_error,
        len(graph.layers),
        tuple(layers),
        next((each.name for each in layers if not each.error <= limit), None),
        next((each.name for each in layers if each.own is not None and not each.own <= limit), None),
        kept,
    )


def _expected(
    request: DebugRequest, part: Component | None, precision: str, graph: Graph, exact: Arrays, feeds: list[Feed]
) -> list[Values]:
    from .eager import eager_values

    if request.against == EAGER:
        assert part is not None
        return list(eager_values(part, check_precision(precision, part.name), graph, feeds))
    if request.against == ONNXRUNTIME:
        return onnxruntime_values(graph, feeds, request.device)
    return reference(graph, exact, feeds)


def _found(request: DebugRequest, graph: Graph, spec: ComponentSpec, feeds: list[Feed]) -> list[Values] | None:
    """Return what the runner gives; None for the emulation."""
    if request.runner == ONNXRUNTIME:
        return onnxruntime_values(graph, feeds, request.device)
    if request.runner in TENSORRT_BACKENDS:
        return tensorrt_values(request.runner, graph, spec, feeds)
    return None


def _by_engine(request: DebugRequest, bundle: Bundle, feeds: list[Feed]) -> list[Values]:
    """Return the outputs of the bundle's own engine."""
    device = Device.parse(request.device if request.runner == ONNXRUNTIME else "cuda")
    engine = load_engine(bundle, request.component, device, None, request.runner)
    return [engine.run(feed) for feed in feeds]


def _reference_in_words(request: DebugRequest, precision: str) -> str:
    if request.against == EAGER:
        return f"PyTorch with the weights of {request.checkpoint}"
    if request.against == ONNXRUNTIME:
        return f"ONNX Runtime on {request.device}"
    weights = request.checkpoint if request.checkpoint is not None and precision != "int8" else "the bundle"
    return f"float32 with the weights of {weights}"


def _ends(graph: Graph) -> set[str]:
    """Return the names of the layers that make the component's outputs."""
    outputs = {each.name for each in graph.model.graph.output}
    return {layer.name for layer in graph.layers if layer.output in outputs}


def _search(
    graph: Graph, exact: Arrays, feeds: list[Feed], expected: list[Values], layers: list[LayerError], limit: float
) -> Found:
    own = {error.name: np.inf if error.own is None else error.own for error in layers}
    by_module: dict[str, list[Layer]] = {}
    for layer in graph.lowered():
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
    reads, worst = feeding(graph), {layer.output: own.get(layer.name, 0.0) for layer in graph.layers}
    for layer in graph.layers:
        if layer.kind == ATTENTION:
            for value in reads[layer.output]:
                worst[value] = max(worst[value], own.get(layer.name, 0.0))
    return worst


def _component(request: DebugRequest, bundle: Bundle, backend: str | None) -> Component:
    """Return the component of the checkpoint, with the float32 layers that the bundle has.

    backend: that it is written for; None for the bundle's.
    """
    from himar.family import open_model

    from ..families.family import export_family
    from ..graph.fp32_layers import keep_in_float32
    from ..make.assemble import bundle_parts, load_fitting_vae
    from ..make.text import load_fitting_text

    manifest = bundle.manifest
    config = export_family(manifest.family).config_of(manifest)
    assert request.checkpoint is not None
    model, _ = open_model(request.checkpoint, config, weights=request.weights, wanted=manifest.family)
    vae, text = load_fitting_vae(request.vae, model), load_fitting_text(request.text, model)
    parts = {part.name: part for part in bundle_parts(manifest, model, vae, text, backend)}
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
    from .eager import in_float32

    known = check_precision(precision, part.name)
    half = "fp16" if known == "fp8" else known  # whose names an fp8 graph has
    model = onnx.load(_exported(in_float32(part, known), half, folder))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _require_same_weights(graph: Graph, exact: Arrays, request: DebugRequest) -> None:
    """Raise BuildError unless both have the same weights; a fused norm may have ones and zeros that are in no other."""
    multiplied = {layer.weight for layer in graph.layers}
    for tensor in graph.model.graph.initializer:
        found, sizes = exact.get(tensor.name.removesuffix(FP8)), [*tensor.dims]
        if found is None and tensor.name not in multiplied:
            continue
        turned = tensor.name.endswith(FP8)  # it may be
        if found is None or [*found.shape] not in ([sizes, sizes[::-1]] if turned else [sizes]):
            raise BuildError(
                f"{request.component} of {request.bundle} has a weight {tensor.name} {list(tensor.dims)} that this "
                f"version of himar does not export from {request.checkpoint}; build the bundle anew."
            )
