"""Runs a graph on real engines with every layer marked as an output, by Polygraphy's runners.

Marking changes what an engine may fuse, so an engine that is built so is a near relative of the bundle's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import onnx

from himar_kernels import BuildError, InputError
from himar_runtime import ComponentSpec, Device
from himar_runtime.engines.ort.session import onnxruntime, session_providers
from himar_runtime.engines.tensorrt.library import collected_errors, first_error, library_logger, load_builder

from ..graph.emulate import OUTPUT, Graph, handed_over
from ..graph.layers import ATTENTION
from ..make.gpu import find_gpu
from ..tensorrt.network import add_profile, parse_network
from ..verify.calls import Feed
from .choices import ONNXRUNTIME, TENSORRT_BACKENDS
from .runs import Values, compared

_FLOAT, _BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
_SHOWN = "#shown"


def require_runner(runner: str, device: str, component: str, precision: str) -> None:
    """Raise InputError, in a sentence with what to do, where a runner cannot run a component here."""
    kind = Device.parse(device).kind
    if runner == ONNXRUNTIME and precision == "bf16" and kind == "cpu":
        raise InputError(
            f"{component} is in bfloat16, which ONNX Runtime cannot run on the CPU; give --device cuda, or --runner "
            f"emulate."
        )
    if runner == ONNXRUNTIME and precision == "int8" and kind == "cuda":
        raise InputError(f"{component} is in int8, which is for the CPU only; leave out --device cuda.")
    if runner not in TENSORRT_BACKENDS:
        return
    if precision == "int8":
        raise InputError(f"{component} is in int8, which is for ONNX Runtime on a CPU; give --runner onnxruntime.")
    if find_gpu() is None:
        raise InputError(
            f"--runner {runner} builds an engine of {component} and runs it on an NVIDIA GPU, and none can be used "
            f"here; give --runner emulate or onnxruntime, or run this on a machine with a GPU."
        )


def onnxruntime_values(graph: Graph, feeds: Sequence[Feed], device: str) -> list[Values]:
    """Return every layer's values by ONNX Runtime on a device. Raises EngineError where it cannot run there."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

    providers = session_providers(onnxruntime(), Device.parse(device))
    with TemporaryDirectory(prefix="himar-debug.") as folder:
        model = handed_over(marked(graph), Path(folder) / "graph.onnx")
        runner = OnnxrtRunner(SessionFromOnnx(model, providers=providers), name=ONNXRUNTIME)
        return _by_layer(compared([runner], feeds)[ONNXRUNTIME])


def tensorrt_values(backend: str, graph: Graph, spec: ComponentSpec, feeds: Sequence[Feed]) -> list[Values]:
    """Return every layer's values by an engine that is built here; on a GPU alone (`require_runner`)."""
    from polygraphy import config

    config.USE_TENSORRT_RTX = backend == "tensorrt-rtx"  # read when the runner's module is first imported
    from polygraphy.backend.trt import TrtRunner

    library = load_builder(backend)
    runtime = library.Runtime(library_logger(library))
    engine = runtime.deserialize_cuda_engine(marked_engine(library, graph, spec))
    return _by_layer(compared([TrtRunner(engine, name=backend)], feeds)[backend])


def marked_engine(library: ModuleType, graph: Graph, spec: ComponentSpec) -> bytes:
    """Build an engine whose outputs are the layers; BuildError with TensorRT's reason where it cannot be built."""
    with TemporaryDirectory(prefix="himar-debug.") as folder:
        file = Path(folder) / f"{spec.name}.onnx"
        onnx.save(marked(graph, for_tensorrt=True), file, save_as_external_data=True, location="weights.bin")
        parsed = parse_network(library, file)
        config = parsed.builder.create_builder_config()
        config.clear_flag(library.BuilderFlag.TF32)  # as every build does: float32 means float32
        add_profile(parsed, config, spec.inputs, spec.profile)
        with collected_errors(library) as errors:
            plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise BuildError(
            f"{library.__name__} {library.__version__} cannot build {spec.name} with its layers as outputs: "
            f"{first_error(errors)}"
        )
    return bytes(plan)


def marked(graph: Graph, for_tensorrt: bool = False) -> onnx.ModelProto:
    """Return the graph as it computes, with an output for every layer, named as its value; bfloat16's in float32.

    for_tensorrt: an fp16 attention's value is what is cast to fp16 behind it, since TensorRT gets it without casts.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    own = {each.name for each in model.graph.output}
    casts = {node.input[0]: node for node in model.graph.node if node.op_type == "Cast"}
    for layer in graph.layers:
        if layer.kind == OUTPUT or layer.output in own:
            continue
        shown = layer.output
        if for_tensorrt and layer.kind == ATTENTION and shown not in graph.halves and shown in casts:
            shown = casts[shown].output[0]
        half = graph.half if shown in graph.halves else None
        name = f"{layer.output}{_SHOWN}"
        model.graph.node.append(
            onnx.helper.make_node("Cast", [shown], [name], to=_FLOAT)
            if half == _BFLOAT16
            else onnx.helper.make_node("Identity", [shown], [name])
        )
        kind = _FLOAT if half in (None, _BFLOAT16) else half
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return model


def _by_layer(found: Sequence[Values]) -> list[Values]:
    """Return the values by their names in the graph, as float32."""
    return [
        {name.removesuffix(_SHOWN): np.asarray(array).astype(np.float32) for name, array in values.items()}
        for values in found
    ]
