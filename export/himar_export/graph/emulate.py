"""Computes a half-precision graph in float32, rounded where a GPU rounds: on a CPU, and with any layers left unrounded.

A GPU's half-precision matmul sums in float32 and rounds what it stores. ONNX Runtime's CPU kernels may keep float32
between two operators, and have none for bfloat16, so an overflow can stay unseen there. Here every value that the graph
has in half precision is rounded to it once, by two casts, and infinity becomes infinity.

A graph in 8 bits runs as it is, its half-precision values rounded. Its float32 reference multiplies what was not made
integers or fp8 yet by what its weights stand for: integers times their scales.

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

from .layers import FP8, INT8, Layer, find_layers

Arrays = Mapping[str, NDArray[Any]]

OUTPUT = "output"
"""Kind of what stands at the end of the layers for each output of the component."""

_BYTES = 1 << 30
"""Largest graph that is handed over in memory; protobuf ends at 2 GiB."""

_FLOAT, _FP8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT8E4M3FN
_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_WHOLE = ("QuantizeLinear", "Shape", "Size")
"""Operators that give no half precision of it."""

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

    def precision(self, layer: Layer) -> str:
        """Return what a layer computes in: fp32, fp16, bf16, int8 or fp8."""
        eight = next((end for end in (INT8, FP8) if layer.weight.endswith(end)), None)
        if eight is not None:
            return eight.removeprefix(".")
        if layer.output not in self.halves:
            return "fp32"
        return "fp16" if self.half == onnx.TensorProto.FLOAT16 else "bf16"

    def lowered(self) -> list[Layer]:
        """Return the matmuls and convolutions that can be kept in float32 instead; none where some are in fp8."""
        kinds = {layer: self.precision(layer) for layer in self.layers if layer.weight}
        return [] if "fp8" in kinds.values() else [layer for layer, kind in kinds.items() if kind != "fp32"]


def read_graph(file: Path) -> Graph:
    """Read a component's ONNX file."""
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
        exact: unrounded weights by name; what the reference takes in place of the graph's own, and the kept layers. Of
            int8 weights there are none: factors moved between them (`migrate`).
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


def feeding(graph: Graph, known: Collection[str] | None = None) -> dict[str, set[str]]:
    """Return for every layer's value the layers' values that it is made of, with no other between.

    known: names of the values to look at; None for all.
    """
    ends = {layer.output for layer in graph.layers if known is None or layer.output in known}
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
        self._quantised: dict[str, str] = {}  # integers → what they were made of
        self._stored = {tensor.name: tensor for tensor in graph.model.graph.initializer}
        self._wide_weights: dict[str, onnx.TensorProto] = {}

    def model(self, marked: bool) -> onnx.ModelProto:
        source = self._graph.model
        for name in sorted(self._inputs):
            self._nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}{_READ}"], to=_FLOAT))
        for node in source.graph.node:
            self._add(node)
        graph = onnx.GraphProto(name=source.graph.name)
        graph.node.extend(self._nodes)
        graph.input.extend(source.graph.input)
        read = {name for node in self._nodes for name in node.input}  # ONNX Runtime warns of what nothing reads
        graph.initializer.extend(self._weight(tensor) for tensor in source.graph.initializer if tensor.name in read)
        graph.initializer.extend(self._wide_weights.values())
        outputs = dict.fromkeys([*(self._layers if marked else ()), *(each.name for each in source.graph.output)])
        graph.output.extend(onnx.helper.make_tensor_value_info(name, _FLOAT, None) for name in outputs)
        graph.value_info.extend(self._as_float32(each) for each in source.graph.value_info if each.name not in outputs)
        if self._given is not None:
            for layer in self._graph.layers:
                if layer.output in self._given:
                    axes = [None] * self._given[layer.output]
                    graph.input.append(onnx.helper.make_tensor_value_info(given_name(layer), _FLOAT, axes))
        made = onnx.ModelProto(ir_version=source.ir_version, graph=graph, producer_name="himar")
        made.opset_import.extend(source.opset_import)
        return made

    def _as_float32(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        """Return a value's type and shape: without shapes, ONNX infers wrong ones behind an attention."""
        made = onnx.ValueInfoProto()
        made.CopyFrom(value)
        fp8 = value.type.tensor_type.elem_type == _FP8
        if value.name in self._graph.halves or (fp8 and self._kept is None):
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
        if tensor.name.endswith(FP8) and self._kept is None:
            return self._fp8_weight(tensor)
        if tensor.data_type in _HALVES:
            array = onnx.numpy_helper.to_array(tensor)
            return onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name)
        return tensor

    def _fp8_weight(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Return what an fp8 weight stands for, in its units."""
        name = tensor.name.removesuffix(FP8)
        array: NDArray[Any] = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        if name in self._exact:
            exact = np.asarray(self._exact[name], np.float32)
            array = np.ascontiguousarray(exact.T if self._turned(tensor.name) else exact)
            array = array / onnx.numpy_helper.to_array(self._stored[f"{name}.step"]).astype(np.float32)
        return onnx.numpy_helper.from_array(array, tensor.name)

    def _turned(self, weight: str) -> bool:
        """Whether a weight is stored by rows of outputs."""
        names = {weight}
        for node in self._graph.model.graph.node:
            if names.isdisjoint(node.input):
                continue
            if node.op_type == "Transpose":
                return True
            if node.op_type in ("Cast", "Identity"):
                names.update(node.output)
        return False

    def _unquantised(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the float32 node in the place of one that makes or multiplies 8 bits; None where it stays."""
        layer = self._layers.get(node.output[0])
        if node.op_type == "QuantizeLinear":
            self._quantised[node.output[0]] = node.input[0]
            if self._kept is None and self._makes_fp8(node):
                return onnx.helper.make_node("Div", [self._read(node.input[0]), node.input[1]], list(node.output))
        elif node.op_type == "DequantizeLinear" and self._kept is None:
            return onnx.helper.make_node("Mul", list(node.input[:2]), list(node.output))
        elif node.op_type == "Cast" and self._kept is None and node.input[0] in self._quantised:
            return onnx.helper.make_node("Identity", list(node.input), list(node.output))
        elif node.op_type == "MatMulIntegerToFloat" and layer is not None and self._is_kept(layer.module):
            x, weight, _, scale, _, *rest = node.input
            wide = f"{weight}#wide"
            arrays = [onnx.numpy_helper.to_array(self._stored[name]).astype(np.float32) for name in (weight, scale)]
            self._wide_weights[wide] = onnx.numpy_helper.from_array(arrays[0] * arrays[1], wide)
            product = f"{node.output[0]}{_EXACT}" if rest and rest[-1] else node.output[0]
            made = onnx.helper.make_node("MatMul", [self._read(self._quantised[x]), wide], [product])
            if product == node.output[0]:
                return made
            self._nodes.append(made)
            return onnx.helper.make_node("Add", [product, rest[-1]], list(node.output))
        return None

    def _makes_fp8(self, node: onnx.NodeProto) -> bool:
        zero = self._stored.get(node.input[2]) if len(node.input) > 2 else None
        asked = any(a.name == "output_dtype" and a.i == _FP8 for a in node.attribute)
        return asked or (zero is not None and zero.data_type == _FP8)

    def _add(self, node: onnx.NodeProto) -> None:
        """Write one node; its values keep their names."""
        unquantised = self._unquantised(node)
        made = onnx.NodeProto()
        made.CopyFrom(node)
        output = node.output[0]
        layer, half = self._layers.get(output), output in self._graph.halves
        to = _cast_to(node)
        if unquantised is not None:
            made = unquantised
        elif to is not None and (to in _HALVES or node.input[0] in self._graph.halves):
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
        if self._given is not None and layer is not None and layer.output in self._given:
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
        return f"{name}{_READ}" if self._given is not None and layer is not None and name in self._given else name

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
