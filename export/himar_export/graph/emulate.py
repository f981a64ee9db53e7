"""Computes a half-precision graph in float32, rounded where a GPU rounds: on a CPU, and with any layers left unrounded.

A GPU's half-precision matmul sums in float32 and rounds what it stores. ONNX Runtime's CPU kernels may keep float32
between two operators, and have none for bfloat16, so an overflow can stay unseen there. Here every value that the graph
has in half precision is rounded to it once, by two casts, and infinity becomes infinity.

One function writes the graph, its float32 reference, and every mixture between: the names of values are the same in
all. What a float32 layer makes stays unrounded until a half-precision layer reads it, as in the graphs that
`--fp32-layers` gives (`graph.fp32_layers`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray

from .layers import Layer, find_layers

Arrays = Mapping[str, NDArray[Any]]

OUTPUT = "output"
"""Kind of what stands at the end of the layers for each output of the component."""

_BYTES = 1 << 30
"""Largest graph that is handed over in memory; protobuf ends at 2 GiB."""

_FLOAT = onnx.TensorProto.FLOAT
_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_WHOLE = ("Shape", "Size")
_MOVING = (
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
)  # fmt: skip
"""Operators that give values as they got them: what was rounded needs no second rounding."""

_GIVEN, _READ, _EXACT, _HALF = ("#given", "#read", "#exact", "#half")


@dataclass(frozen=True)
class Graph:
    """A component's graph without functions, its weights inside.

    Attributes:
        layers: in order, and after them the outputs.
        half: type of its half-precision values as ONNX counts types; None where all are float32.
        halves: names of those values.
    """

    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    half: int | None
    halves: frozenset[str]

    def half_layers(self) -> list[Layer]:
        """Return the matmuls and convolutions in half precision: what can be kept in float32."""
        return [layer for layer in self.layers if layer.weight and layer.output in self.halves]


def read_graph(file: Path) -> Graph:
    """Read a component's ONNX file, which computes in nothing below half precision."""
    model = onnx.inliner.inline_local_functions(onnx.load(file, load_external_data=False))
    onnx.load_external_data_for_model(model, str(file.parent))
    halves, kinds = _half_values(model.graph)
    layers = find_layers(model.graph)
    own = {layer.output for layer in layers}
    ends = [Layer(f"output {each.name}", OUTPUT, each.name) for each in model.graph.output if each.name not in own]
    return Graph(model, (*layers, *ends), min(kinds, default=None), frozenset(halves))


def _half_inputs(graph: onnx.GraphProto) -> set[str]:
    return {each.name for each in graph.input if each.type.tensor_type.elem_type in _HALVES}


def _half_values(graph: onnx.GraphProto) -> tuple[set[str], set[int]]:
    """Return the names of a graph's half-precision values, and their types."""
    kinds = {tensor.data_type for tensor in graph.initializer if tensor.data_type in _HALVES}
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type in _HALVES} | _half_inputs(graph)
    for node in graph.node:
        to = _cast_to(node)
        if to in _HALVES or (to is None and node.op_type not in _WHOLE and not halves.isdisjoint(node.input)):
            halves.update(node.output)
            kinds |= {to} if to is not None else set()
    return halves, kinds


def emulated(
    graph: Graph,
    kept: Collection[str] | None,
    exact: Arrays,
    given: Mapping[str, int] | None = None,
    *,
    marked: bool = True,
) -> onnx.ModelProto:
    """Return the float32 graph that rounds as `graph` does.

    Args:
        kept: modules of layers that are float32; None for all: nothing is rounded, the reference.
        exact: unrounded weights by name; what the reference takes in place of the graph's own, and the kept layers.
        given: numbers of axes of the layers' values by their names, which are then inputs too (`given_name`): these are
            what other layers read, rounded as they would be. None for no such inputs.
        marked: whether every layer's value is an output too.
    """
    return _Writer(graph, kept, exact, given).model(marked)


def handed_over(model: onnx.ModelProto, path: Path) -> bytes | str:
    """Return a graph's bytes for a session; the path of a file, written there, where they are too many."""
    if model.ByteSize() < _BYTES:
        return bytes(model.SerializeToString())
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return str(path)


def given_name(layer: Layer) -> str:
    """Return the input that a layer's value is given by (see `emulated`)."""
    return f"{layer.output}{_GIVEN}"


def feeding(graph: Graph) -> dict[str, set[str]]:
    """Return for every layer's value the layers' values that it is made of, with no other between."""
    ends = {layer.output for layer in graph.layers}
    reads: dict[str, set[str]] = {}
    made: dict[str, set[str]] = {}
    for node in graph.model.graph.node:
        read = set[str]().union(*(made.get(name, set()) for name in node.input))
        for name in node.output:
            if name in ends:
                reads[name] = read
            made[name] = {name} if name in ends else read
    return reads


class _Writer:
    """Writes one emulated graph; see `emulated`."""

    def __init__(
        self, graph: Graph, kept: Collection[str] | None, exact: Arrays, given: Mapping[str, int] | None
    ) -> None:
        self._graph, self._kept, self._exact, self._given = graph, kept, exact, given
        self._layers = {layer.output: layer for layer in graph.layers}
        self._nodes: list[onnx.NodeProto] = []
        self._wide: set[str] = set()
        self._before: dict[str, str] = {}  # value that was cast to half precision → what it was
        self._rounded: set[str] = set()
        self._inputs = _half_inputs(graph.model.graph)

    def model(self, marked: bool) -> onnx.ModelProto:
        source = self._graph.model
        for name in sorted(self._inputs):
            self._nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}{_READ}"], to=_FLOAT))
        for node in source.graph.node:
            self._add(node)
        graph = onnx.GraphProto(name=source.graph.name)
        graph.node.extend(self._nodes)
        graph.input.extend(source.graph.input)
        graph.initializer.extend(self._weight(tensor) for tensor in source.graph.initializer)
        outputs = dict.fromkeys([*(self._layers if marked else ()), *(each.name for each in source.graph.output)])
        graph.output.extend(onnx.helper.make_tensor_value_info(name, _FLOAT, None) for name in outputs)
        graph.value_info.extend(self._as_float32(each) for each in source.graph.value_info if each.name not in outputs)
        if self._given is not None:
            for layer in self._graph.layers:
                if layer.kind != OUTPUT:
                    axes = [None] * self._given[layer.output]
                    graph.input.append(onnx.helper.make_tensor_value_info(given_name(layer), _FLOAT, axes))
        made = onnx.ModelProto(ir_version=source.ir_version, graph=graph, producer_name="himar")
        made.opset_import.extend(source.opset_import)
        return made

    def _as_float32(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        """Return a value's type and shape: without shapes, ONNX infers wrong ones behind an attention."""
        made = onnx.ValueInfoProto()
        made.CopyFrom(value)
        if value.name in self._graph.halves:
            made.type.tensor_type.elem_type = _FLOAT
        return made

    def _is_kept(self, module: str) -> bool:
        return self._kept is None or module in self._kept

    def _weight(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        exact = self._exact.get(tensor.name)
        floats = tensor.data_type in (_FLOAT, *_HALVES) and not tensor.name.startswith(
            "val_"
        )  # constants are the graph's
        if exact is not None and floats and self._is_kept(tensor.name.rpartition(".")[0]):
            return onnx.numpy_helper.from_array(np.asarray(exact, np.float32), tensor.name)
        if tensor.data_type in _HALVES:
            array = onnx.numpy_helper.to_array(tensor)
            return onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name)
        return tensor

    def _add(self, node: onnx.NodeProto) -> None:
        """Write one node; its values keep their names."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        output = node.output[0]
        layer, half = self._layers.get(output), output in self._graph.halves
        to = _cast_to(node)
        if to is not None and (to in _HALVES or node.input[0] in self._graph.halves):
            made = onnx.helper.make_node("Identity", [self._read(node.input[0])], [output])
            if half:
                self._before[output] = made.input[0]
        elif layer is not None and layer.weight and half:
            made.input[0] = self._unrounded(node.input[0]) if self._is_kept(layer.module) else self._half(node.input[0])
            made.input[1:] = [self._read(name) for name in node.input[1:]]
            if self._is_kept(layer.module):
                self._wide.add(output)
        elif half and any(name in self._wide for name in node.input):
            made.input[:] = [self._unrounded(name) for name in node.input]
            self._wide.update(node.output)
        else:
            made.input[:] = [self._read(name) for name in node.input]
        _use_float32(made)
        if half and self._kept is not None and output not in self._wide and node.op_type not in _MOVING:
            self._nodes.append(made)
            made.output[0] = f"{output}{_EXACT}"
            self._round(made.output[0], output)
        else:
            self._nodes.append(made)
        if self._given is not None and layer is not None and layer.kind != OUTPUT:
            self._take(layer)

    def _take(self, layer: Layer) -> None:
        """Let what reads a layer's value read what is given in its place."""
        half = layer.output in self._graph.halves and self._kept is not None and layer.output not in self._wide
        read = f"{layer.output}{_READ}"
        if half:
            self._round(given_name(layer), read)
        else:
            self._nodes.append(onnx.helper.make_node("Identity", [given_name(layer)], [read]))

    def _read(self, name: str) -> str:
        if name in self._inputs:
            return f"{name}{_READ}"
        layer = self._layers.get(name)
        return f"{name}{_READ}" if self._given is not None and layer is not None and layer.kind != OUTPUT else name

    def _unrounded(self, name: str) -> str:
        return self._before.get(name, self._read(name))

    def _half(self, name: str) -> str:
        """Return a value rounded to half precision, where it is not yet."""
        if self._kept is None or name not in self._wide:
            return self._read(name)
        rounded = f"{name}#rounded"
        if rounded not in self._rounded:
            self._rounded.add(rounded)
            self._round(self._read(name), rounded)
        return rounded

    def _round(self, source: str, target: str) -> None:
        between = f"{target}{_HALF}"
        self._nodes.append(onnx.helper.make_node("Cast", [source], [between], to=self._graph.half))
        self._nodes.append(onnx.helper.make_node("Cast", [between], [target], to=_FLOAT))


def _use_float32(node: onnx.NodeProto) -> None:
    """Make a constant of half precision one of float32."""
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type in _HALVES:
            array = onnx.numpy_helper.to_array(attribute.t)
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32)))


def _cast_to(node: onnx.NodeProto) -> int | None:
    """Return the type that a node casts to; None for one that is not a cast."""
    return next((int(a.i) for a in node.attribute if a.name == "to"), None) if node.op_type == "Cast" else None
