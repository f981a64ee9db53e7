"""Reads an engine's own inspector as a proof of its precision: which takes a GPU that can open the engine.

The inspector lists what the builder made of the network: kernels, most of them of several operations. Where it says of
which nodes of the graph a kernel was made, every matmul of a component in fp8 is looked for by name; otherwise kernels
are counted by their types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnx

from himar_kernels import BuildError
from himar_runtime.engines.tensorrt.library import collected_errors, first_error, library_logger

from ..graph.precision_choice import Precision
from .precision import Operation, PrecisionTable, stored_weights

if TYPE_CHECKING:
    from ..graph.component import Component

INSPECTOR = "engine inspector"

_TYPES = {
    "float": "fp32", "fp32": "fp32", "half": "fp16", "fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16",
    "fp8": "fp8", "e4m3": "fp8", "fp8_e4m3": "fp8", "fp8e4m3": "fp8", "float8e4m3fn": "fp8",
}  # fmt: skip
# How TensorRT's inspector names what holds operations: layer types of its own, and kernels that Myelin has fused.
_OPERATION_WORDS = ("matrixmultiply", "matmul", "gemm", "convolution", "conv", "attention", "mha", "einsum")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Kernel:
    """One kernel that holds operations.

    kind: the inspector's. types: of its inputs; of one that multiplies in e4m3 only that, whatever its bias and its
    scales are. nodes: names of the graph's nodes that it was made of, where the inspector says so.
    """

    kind: str
    types: frozenset[str]
    nodes: frozenset[str]


def inspect_engine(
    library: ModuleType, data: bytes, file: Path, component: Component, precision: Precision
) -> PrecisionTable:
    """Open an engine, which takes a GPU, and return what its kernels run in.

    file: the ONNX graph that it was built from. Raises BuildError when it does not load or its kernels are not of
    `precision`.
    """
    runtime = library.Runtime(library_logger(library))
    runtime.engine_host_code_allowed = True  # a version-compatible engine brings its runtime; this one we built
    with collected_errors(library) as errors:
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BuildError(f"the engine of {component.name} was built but does not load: {first_error(errors)}")
    report = engine.create_engine_inspector().get_engine_information(library.LayerInformationFormat.JSON)
    graph = onnx.load(file, load_external_data=False).graph
    require_inspected(report, component.name, precision, wanted_matmuls(graph, component.islands, precision))
    return inspected_table(report)


def wanted_matmuls(graph: onnx.GraphProto, islands: tuple[str, ...], precision: Precision) -> dict[str, Operation]:
    """Return node name → matmul of a stored weight, with the precision that it has to run in."""
    stored, found = stored_weights(graph), {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name in stored:
            name, sizes = stored[node.name]
            wanted = Operation("matmul", name, "", sizes).belongs_in(islands, precision)
            found[node.name] = Operation("matmul", name, wanted, sizes)
    return found


def kernels(report: str) -> Iterator[Kernel]:
    """Yield the kernels that hold operations in an inspector's JSON (ProfilingVerbosity.DETAILED)."""
    for layer in json.loads(report).get("Layers", []):
        if not isinstance(layer, dict):
            continue  # built with less verbosity: names alone
        words = f"{layer.get('LayerType', '')} {layer.get('TacticName', '')} {layer.get('Name', '')}".lower()
        if not any(word in words for word in _OPERATION_WORDS):
            continue
        types = {_type(tensor) for tensor in layer.get("Inputs", [])} - {""}
        # A kernel of e4m3 says so in the name of its tactic too, as sm89_xmma_gemm_e4m3bf16_e4m3f32_f32 does.
        if "fp8" in types or "e4m3" in str(layer.get("TacticName", "")).lower():
            types = {"fp8"}
        nodes = frozenset(_NODE.findall(str(layer.get("Metadata", ""))))
        yield Kernel(str(layer.get("LayerType", "kernel")), frozenset(types), nodes)


def inspected_table(report: str) -> PrecisionTable:
    """Count the kernels in an engine inspector's JSON by the types of their inputs.

    A kind here is the kernel's, and a kernel that holds several operations counts once; norms that were fused into them
    do not appear.
    """
    counts: dict[str, dict[str, int]] = {}
    for kernel in kernels(report):
        for name in kernel.types:
            by_precision = counts.setdefault(kernel.kind, {})
            by_precision[name] = by_precision.get(name, 0) + 1
    return PrecisionTable(counts, (), {}, INSPECTOR)


def require_inspected(
    report: str, component: str, precision: Precision, wanted: Mapping[str, Operation] | None = None
) -> None:
    """Raise BuildError when no kernel of the built engine takes inputs in the precision that was asked for.

    wanted: of a component in fp8 its matmuls (`wanted_matmuls`); one that runs in fp16 where fp8 belongs, or the other
    way round, is refused by name where the inspector names nodes.
    """
    found = list(kernels(report))
    seen = {name for kernel in found for name in kernel.types}
    wrong = seen - {precision, "fp32", *(("fp16",) if precision == "fp8" else ())}
    if precision not in seen or wrong:
        raise BuildError(
            f"{component} was asked for in {precision}, but the matmuls of the built engine run in "
            f"{', '.join(sorted(seen)) or 'no type that its inspector names'}, so it was not kept; please report this."
        )
    for node, each in (wanted or {}).items() if precision == "fp8" else ():
        # A kernel may hold matmuls of both; and a matmul may have further kernels that add up its parts.
        own = [kernel for kernel in found if node in kernel.nodes]
        in_fp8 = [kernel for kernel in own if "fp8" in kernel.types]
        mixed = any(_holds_fp8(kernel, wanted or {}) for kernel in in_fp8)
        if own and (not in_fp8 if each.precision == "fp8" else len(in_fp8) == len(own) and not mixed):
            raise BuildError(
                f"{component} was asked for in fp8, but its matmul {each.name} runs in "
                f"{'fp8' if in_fp8 else ', '.join(sorted(own[0].types))} in the built engine where {each.precision} "
                f"belongs, so it was not kept; build it with --precision {component}=fp16, and please report this."
            )


def _holds_fp8(kernel: Kernel, wanted: Mapping[str, Operation]) -> bool:
    return any(node in wanted and wanted[node].precision == "fp8" for node in kernel.nodes)


def _type(tensor: Any) -> str:
    """Read "Row major linear FP16 format" or "Half" as a precision; "" for integers and what is unknown."""
    text = str(tensor.get("Format/Datatype", "")) if isinstance(tensor, dict) else ""
    words = [word.strip(",:()").lower() for word in text.split()]
    return next((_TYPES[word] for word in words if word in _TYPES), "")
