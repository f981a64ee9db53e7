"""Proves precision: reads back the type that every operation runs in and checks it against what was asked.

An operation here is a matmul, a convolution or an attention.

A strongly typed network leaves its builder no choice of types, so the parsed network is a proof for what is built
from it; the engine's own inspector is a second one, where the engine can be opened (`inspector`).

A matmul in fp8 is one of half precision there, both of whose inputs come out of e4m3 by a layer of their own, and its
builder makes one kernel of the three. So the network proves of fp8 that every matmul is written as such kernels want
it; that they were taken, the inspector alone can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from himar_kernels import BuildError

from ..graph.layers import attention_sources
from ..graph.precision_choice import FP8_SUFFIX, Precision, takes_fp8
from .network import ParsedNetwork, layers

if TYPE_CHECKING:
    from ..graph.component import Component

TYPED_NETWORK = "typed network"

_NAMES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}


@dataclass(frozen=True)
class Operation:
    """One operation. kind: matmul, convolution or attention. name: its weight's; attentions are numbered.

    sizes: of a stored weight. sources: names of the weights that make an attention's queries, keys and values.
    """

    kind: str
    name: str
    precision: str
    sizes: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()

    def belongs_in(self, islands: tuple[str, ...], precision: Precision) -> str:
        """Return what it has to run in, in a component of these islands that was asked for in `precision`."""
        if precision != "fp32" and any(name.startswith(islands) for name in (self.name, *self.sources)):
            return "fp32"
        if precision == "fp8" and not (self.kind == "matmul" and takes_fp8(self.name, self.sizes)):
            return "fp16"
        return precision


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
    weights, of_attentions = stored_weights(parsed.graph.graph), iter(attention_sources(parsed.graph.graph))
    network = layers(parsed.network)
    makers = {layer.get_output(k).name: layer for layer in network for k in range(layer.num_outputs)}
    found: list[Operation] = []
    for layer in network:
        kind = kinds.get(layer.type.name)
        if kind is not None:
            types = {_input_type(tensor, makers) for tensor in _inputs(layer)}
            name, sizes = weights.get(layer.name, (layer.name, ()))
            sources: tuple[str, ...] = ()
            if kind == "attention":
                name, sizes = f"attention.{sum(each.kind == kind for each in found)}", ()
                own = {"q", "k", "v", "kv", "qkv"}
                sources = tuple(each for each in next(of_attentions, ()) if own.intersection(each.split(".")))
            # Operations of mixed types do not exist in a typed network; should one appear it must match nothing.
            found.append(Operation(kind, name, "+".join(sorted(types)), sizes, sources))
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

    An attention whose queries, keys or values an island makes is one too. Of a component in fp8 the matmuls that
    `takes_fp8` names run in fp8 and all others in fp16.
    """
    found = operations(parsed)
    if not found:
        raise BuildError(f"{component.name}: TensorRT's network has no matmuls at all; please report this.")
    for each in found:
        wanted = each.belongs_in(component.islands, precision)
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


def stored_weights(graph: onnx.GraphProto) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return node name → name and sizes of its weight; the parser names a layer as its node.

    A weight that comes out of e4m3 values has the name that it would have in half precision.
    """
    stored = {tensor.name: (tensor.name, tuple(tensor.dims)) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            name, sizes = stored[node.input[0]]
            stored[node.output[0]] = name.removesuffix(FP8_SUFFIX), sizes
    names = {}
    for node in graph.node:
        weight = next((name for name in node.input if name in stored), None)
        if weight is not None:
            names[node.name] = stored[weight]
    return names


def _inputs(layer: Any) -> list[Any]:
    return [layer.get_input(k) for k in range(layer.num_inputs) if layer.get_input(k) is not None]


def _input_type(tensor: Any, makers: Mapping[str, Any]) -> str:
    """Return the type that an operation reads a tensor in: fp8 where it comes out of e4m3 as kernels of fp8 want it.

    That is per tensor, with scales of half precision. What else there is gets names in which no operation may run.
    """
    out_of = makers.get(tensor.name)
    if out_of is None or out_of.type.name != "DEQUANTIZE":
        return _type(tensor)
    eighth, scale = out_of.get_input(0), out_of.get_input(1)
    into = makers.get(eighth.name)
    if _type(eighth) != "fp8" or into is None:
        return _type(eighth)
    stored = into.type.name == "CONSTANT"
    if not stored and into.type.name != "QUANTIZE":
        return "fp8 of no quantisation"
    if not stored and into.get_input(1).name != scale.name:
        return "fp8 by two scales"
    if any(size != 1 for size in scale.shape):
        return "fp8 not per tensor"
    halves = {_type(scale), _type(tensor), *(() if stored else (_type(into.get_input(0)),))}
    return "fp8" if halves == {"fp16"} else f"fp8 of {'+'.join(sorted(halves))}"


def _type(tensor: Any) -> str:
    return _NAMES.get(tensor.dtype.name, tensor.dtype.name.lower())
