"""Proves precision: reads back the type that every operation runs in and checks it against what was asked.

An operation here is a matmul, a convolution or an attention.

A strongly typed network leaves its builder no choice of types, so the parsed network is a proof for what is built
from it; the engine's own inspector is a second one, where the engine can be opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from himar_kernels import BuildError
from himar_runtime.engines.tensorrt.library import collected_errors, first_error, library_logger

from ..graph.layers import attention_sources
from ..graph.precision_choice import Precision
from .network import ParsedNetwork, layers

if TYPE_CHECKING:
    from ..graph.component import Component

TYPED_NETWORK, INSPECTOR = "typed network", "engine inspector"

_NAMES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
_INSPECTED = {"float": "fp32", "fp32": "fp32", "half": "fp16", "fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16"}
# How TensorRT's inspector names what holds operations: layer types of its own, and kernels that Myelin has fused.
_OPERATION_WORDS = ("matrixmultiply", "matmul", "gemm", "convolution", "conv", "attention", "mha", "einsum")


@dataclass(frozen=True)
class Operation:
    """One operation. kind: matmul, convolution or attention. name: its weight's; attentions are numbered.

    sources: names of the weights that make an attention's queries, keys and values.
    """

    kind: str
    name: str
    precision: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrecisionTable:
    """What a component's operations run in.

    counts: kind → precision → number of operations. islands: names of the float32 operations of a half-precision
    component. norms: precision → number of normalisations. source: where all this was read.
    """

    counts: Mapping[str, Mapping[str, int]]
    islands: tuple[str, ...]
    norms: Mapping[str, int]
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as the manifest holds it."""
        return {**self.counts, "normalization": dict(self.norms), "islands": list(self.islands), "source": self.source}


def operations(parsed: ParsedNetwork) -> list[Operation]:
    """Return every operation of a parsed network with the type of its inputs."""
    kinds = {"MATRIX_MULTIPLY": "matmul", "CONVOLUTION": "convolution", "ATTENTION_INPUT": "attention"}
    weights, of_attentions = _weight_names(parsed), iter(attention_sources(parsed.graph.graph))
    found: list[Operation] = []
    for layer in layers(parsed.network):
        kind = kinds.get(layer.type.name)
        if kind is not None:
            types = {_type(layer.get_input(k)) for k in range(layer.num_inputs) if layer.get_input(k) is not None}
            name = weights.get(layer.name, layer.name)
            sources: tuple[str, ...] = ()
            if kind == "attention":
                name = f"attention.{sum(each.kind == kind for each in found)}"
                own = {"q", "k", "v", "kv", "qkv"}
                sources = tuple(each for each in next(of_attentions, ()) if own.intersection(each.split(".")))
            # Operations of mixed types do not exist in a typed network; should one appear it must match nothing.
            found.append(Operation(kind, name, "+".join(sorted(types)), sources))
    return found


def typed_network_table(parsed: ParsedNetwork, precision: Precision) -> PrecisionTable:
    """Count the operations of a parsed network by kind and precision."""
    counts: dict[str, dict[str, int]] = {}
    islands = []
    for each in operations(parsed):
        by_precision = counts.setdefault(each.kind, {})
        by_precision[each.precision] = by_precision.get(each.precision, 0) + 1
        if precision != "fp32" and each.precision == "fp32":
            islands.append(each.name)
    norms: dict[str, int] = {}
    for layer in layers(parsed.network):
        if layer.type.name in ("NORMALIZATION", "SOFTMAX"):
            name = _type(layer.get_output(0))
            norms[name] = norms.get(name, 0) + 1
    return PrecisionTable(counts, tuple(islands), norms, TYPED_NETWORK)


def require_precision(parsed: ParsedNetwork, component: Component, precision: Precision) -> None:
    """Raise BuildError unless every operation runs in `precision`, the component's islands and all norms in float32.

    An attention whose queries, keys or values an island makes is one too.
    """
    found = operations(parsed)
    if not found:
        raise BuildError(f"{component.name}: TensorRT's network has no matmuls at all; please report this.")
    for each in found:
        names = (each.name, *each.sources)
        island = precision != "fp32" and any(name.startswith(component.islands) for name in names)
        wanted = "fp32" if island else precision
        if each.precision != wanted:
            raise BuildError(
                f"{component.name} was asked for in {precision}, but its {each.kind} {each.name} runs in "
                f"{each.precision} where {wanted} belongs, so the engine was not kept; please report this."
            )
    for layer in layers(parsed.network):
        if layer.type.name in ("NORMALIZATION", "SOFTMAX") and _type(layer.get_output(0)) != "fp32":
            raise BuildError(
                f"{component.name}: the norm {layer.name} runs in {_type(layer.get_output(0))} where fp32 belongs, so "
                f"the engine was not kept; please report this."
            )


def inspect_engine(library: ModuleType, data: bytes, component: str, precision: Precision) -> PrecisionTable:
    """Open an engine, which takes a GPU, and return what its kernels run in.

    Raises BuildError when it does not load or its kernels are not of `precision`.
    """
    runtime = library.Runtime(library_logger(library))
    runtime.engine_host_code_allowed = True  # a version-compatible engine brings its runtime; this one we built
    with collected_errors(library) as errors:
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BuildError(f"the engine of {component} was built but does not load: {first_error(errors)}")
    report = engine.create_engine_inspector().get_engine_information(library.LayerInformationFormat.JSON)
    table = inspected_table(report)
    require_inspected(table, component, precision)
    return table


def inspected_table(report: str) -> PrecisionTable:
    """Count the operations in an engine inspector's JSON (ProfilingVerbosity.DETAILED) by the types of their inputs.

    The inspector lists what the builder fused, so a kind here is the kernel's, and a kernel that holds several
    operations counts once; norms that were fused into them do not appear.
    """
    counts: dict[str, dict[str, int]] = {}
    for layer in json.loads(report).get("Layers", []):
        if not isinstance(layer, dict):
            continue  # built with less verbosity: names alone
        words = f"{layer.get('LayerType', '')} {layer.get('TacticName', '')} {layer.get('Name', '')}".lower()
        if not any(word in words for word in _OPERATION_WORDS):
            continue
        for name in {_inspected_type(tensor) for tensor in layer.get("Inputs", [])} - {""}:
            by_precision = counts.setdefault(str(layer.get("LayerType", "kernel")), {})
            by_precision[name] = by_precision.get(name, 0) + 1
    return PrecisionTable(counts, (), {}, INSPECTOR)


def require_inspected(table: PrecisionTable, component: str, precision: Precision) -> None:
    """Raise BuildError when no kernel of the built engine takes inputs in the precision that was asked for."""
    seen = {name for by_precision in table.counts.values() for name in by_precision}
    wrong = seen - {precision, "fp32"}
    if precision not in seen or wrong:
        raise BuildError(
            f"{component} was asked for in {precision}, but the matmuls of the built engine run in "
            f"{', '.join(sorted(seen)) or 'no type that its inspector names'}, so it was not kept; please report this."
        )


def _weight_names(parsed: ParsedNetwork) -> dict[str, str]:
    """Return node name → name of its weight; the parser names a layer as its node."""
    stored = {tensor.name for tensor in parsed.graph.graph.initializer}
    names = {}
    for node in parsed.graph.graph.node:
        weight = next((name for name in node.input if name in stored), None)
        if weight is not None:
            names[node.name] = weight
    return names


def _type(tensor: Any) -> str:
    return _NAMES.get(tensor.dtype.name, tensor.dtype.name.lower())


def _inspected_type(tensor: Any) -> str:
    """Read "Row major linear FP16 format" or "Half" as a precision; "" for integers and what is unknown."""
    text = str(tensor.get("Format/Datatype", "")) if isinstance(tensor, dict) else ""
    words = [word.strip(",:()").lower() for word in text.split()]
    return next((_INSPECTED[word] for word in words if word in _INSPECTED), "")
