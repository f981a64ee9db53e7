"""Finds the layers of an exported graph: its matmuls, convolutions, attentions and norms by the paths of their modules.

The exporter names weights by their modules, so a matmul is called as its weight; an attention as the module of what
makes its queries; a norm as its own weights, or, where it has none of its own, after the first layer that reads it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

MATMUL, CONVOLUTION, ATTENTION, NORM = "matmul", "convolution", "attention", "norm"

INT8, FP8 = ".int8", ".fp8"
"""Ends of the names of weights in 8 bits."""

_MULTIPLYING = {"MatMul": MATMUL, "MatMulIntegerToFloat": MATMUL, "Gemm": MATMUL, "Conv": CONVOLUTION}
_TURNING = ("Cast", "DequantizeLinear", "Identity", "Transpose")
"""What stands between a weight in fp8 and its matmul."""
_ATTENTIONS = ("Attention", "MultiHeadAttention")
_NORMS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization")


@dataclass(frozen=True)
class Layer:
    """One layer of a graph.

    Attributes:
        name: path of its module; a module that runs again is called name/2, name/3, ….
        kind: matmul, convolution, attention or norm.
        output: name of the value that it makes: a matmul's before its bias, but in int8 with it.
        weight: name of the weight that it multiplies by; "" of attentions and norms.
    """

    name: str
    kind: str
    output: str
    weight: str = ""

    @property
    def module(self) -> str:
        """The path alone: what `--fp32-layers` takes."""
        return self.name.partition("/")[0]


def find_layers(graph: onnx.GraphProto) -> list[Layer]:
    """Return the layers of a graph without functions (onnx.inliner), in the order of its nodes."""
    stored, makers = _stored(graph), {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    norms = Counter(node.input[1] for node in graph.node if node.op_type in _NORMS)
    found, times = [], Counter[str]()
    for node in graph.node:
        kind, weight = _multiplied(node, stored)
        output = node.output[0]
        if kind:
            name = _path(weight)
            output = _in_units(output, readers) if weight.endswith(FP8) else output
        elif node.op_type in _ATTENTIONS:
            kind, name = ATTENTION, _attention_path(sources(node.input[0], makers, stored))
        elif node.op_type in _NORMS:
            kind, own = NORM, node.input[1]
            named = norms[own] == 1 and not own.startswith("val_")
            name = _path(own) if named else f"norm of {_reader(node.output[0], readers, stored)}"
        else:
            continue
        times[name] += 1
        found.append(Layer(name if times[name] == 1 else f"{name}/{times[name]}", kind, output, weight))
    return found


def attention_sources(graph: onnx.GraphProto) -> list[list[str]]:
    """Return for every attention, in order, the weights that make its queries, keys and values."""
    stored, makers = _stored(graph), {name: node for node in graph.node for name in node.output}
    return [
        [weight for name in node.input[:3] for weight in sources(name, makers, stored)]
        for node in graph.node
        if node.op_type in _ATTENTIONS
    ]


def sources(value: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, str]) -> list[str]:
    """Return the weights of the matmuls and convolutions that a value is made of, with none of them between."""
    seen, waiting, found = {value}, [value], []
    while waiting:
        node = makers.get(waiting.pop())
        if node is None:
            continue
        kind, weight = _multiplied(node, stored)
        if kind:
            found.append(weight)
            continue
        if node.op_type in ("Shape", "Size"):
            continue
        for name in node.input:
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return found


def _stored(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the names of the stored tensors; of an fp8 weight also what its matmul reads in its place."""
    stored = {tensor.name: tensor.name for tensor in graph.initializer}
    for node in graph.node:
        weight = stored.get(node.input[0], "") if node.op_type in _TURNING else ""
        if weight.endswith(FP8):
            stored[node.output[0]] = weight
    return stored


def _in_units(product: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> str:
    """Return what an fp8 product becomes: it is multiplied by its unit, and cast to half precision."""
    value = product
    for operator in ("Mul", "Cast"):
        found = readers[value]
        if len(found) != 1 or found[0].op_type != operator:
            return product
        value = found[0].output[0]
    return value


def _multiplied(node: onnx.NodeProto, stored: Mapping[str, str]) -> tuple[str, str]:
    """Return kind and weight of a node that multiplies by a stored weight; two empty strings of any other."""
    kind = _MULTIPLYING.get(node.op_type)
    weight = node.input[1] if kind and len(node.input) > 1 else ""
    return (kind, stored[weight]) if kind and weight in stored else ("", "")


def _path(weight: str) -> str:
    weight = weight.removesuffix(INT8).removesuffix(FP8)
    return weight.rpartition(".")[0] or weight


def _attention_path(weights: Sequence[str]) -> str:
    """blocks.0.attention.qkv.0.weight → blocks.0.attention; encoder.0.qkv.weight → encoder.0.attention."""
    if not weights:
        return "attention"
    parts = _path(min(weights)).split(".")
    while parts and parts[-1].isdigit():
        parts.pop()
    module = ".".join(parts[:-1])
    return module if "att" in module.rpartition(".")[2] else f"{module}.attention"


def _reader(value: str, readers: Mapping[str, Sequence[onnx.NodeProto]], stored: Mapping[str, str]) -> str:
    """Return the path of the first layer that reads a value, maybe through other nodes; "the outputs" if none does."""
    seen, waiting = {value}, [value]
    for name in waiting:
        for node in readers[name]:
            kind, weight = _multiplied(node, stored)
            if kind:
                return _path(weight)
            for output in node.output:
                if output not in seen:
                    seen.add(output)
                    waiting.append(output)
    return "the outputs"
