"""Exports a block once, however often a network repeats it: the others are copies of its nodes with their own weights.

PyTorch's exporter takes about as long for every block as for the first, though the blocks of a network differ in their
weights alone. While a network is exported, each call of a repeated block leaves one node in the graph; `write_out`
replaces it by the nodes of the block. A block's parameters are inputs while it is exported, so that nothing made from
the first block's weights can be folded into what the others use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

_DOMAIN, _BLOCK = "himar.repeated", "Block"

Export = Callable[[nn.Module, tuple[Any, ...], list[str], Any], ir.Model]
"""Exports a module for sample inputs, names of its inputs and dynamic axes, as `torch.onnx.export` takes them."""


class Repeated(nn.ModuleList):
    """Blocks alike in all but their weights, each of which maps tensors to tensors of the first one's shape and type.

    likeness: what a block's forward depends on beside its weights' shapes; blocks of one class for which all of that is
    equal, also those of another network, are exported once; one whose weights are of other types (`fp32_layers`) by
    itself. name: where the blocks stand in the network that is exported; `prepare` sets it.
    """

    name = ""

    def __init__(self, blocks: Sequence[nn.Module], likeness: Hashable) -> None:
        super().__init__(blocks)
        self.likeness = likeness
        self._samples: dict[int, tuple[Tensor, ...]] = {}

    def run(self, place: int, *inputs: Tensor, results: int = 1) -> tuple[Tensor, ...]:
        """Return what block `place` makes of inputs: `results` tensors, each of the first input's shape and type."""
        if torch.compiler.is_exporting():
            attributes: dict[str, Any] = {"of": self.name, "place": place}
            first = inputs[0]
            made = torch.onnx.ops.symbolic_multi_out(
                f"{_DOMAIN}::{_BLOCK}",
                inputs,
                attributes,
                dtypes=[first.dtype] * results,
                shapes=[first.shape] * results,
                version=1,
            )
            return tuple(made)
        self._samples[len(inputs)] = inputs
        outputs = self[place](*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def samples(self, count: int) -> tuple[Tensor, ...]:
        """Return the `count` inputs of the last call that had so many."""
        return self._samples[count]


def prepare(network: nn.Module, samples: Sequence[Tensor]) -> None:
    """Tell repeated blocks their names, and run the network once so that they see what their inputs look like."""
    repeated = False
    for name, module in network.named_modules():
        if isinstance(module, Repeated):
            module.name, repeated = name, True
    if repeated:
        network(*samples)


def write_out(model: ir.Model, network: nn.Module, export: Export) -> None:
    """Replace every call of a repeated block in an exported graph by the block's nodes, in place."""
    used: dict[Hashable, _Body] = {}
    calls: Counter[str] = Counter()
    for node in [node for node in model.graph if (node.domain, node.op_type) == (_DOMAIN, _BLOCK)]:
        of, place = node.attributes["of"].as_string(), node.attributes["place"].as_int()
        blocks = network.get_submodule(of)
        assert isinstance(blocks, Repeated)
        names, first = (list(dict(block.named_parameters())) for block in (blocks[place], blocks[0]))
        if names != first:
            raise TypeError(f"{of}.{place} is not like the first block: its parameters are {', '.join(names)}")
        key = of, len(node.inputs), _weights(blocks[place])
        if key not in used:
            used[key] = _body(blocks, place, node, export)
        name = f"{of}.{place}"
        calls[name] += 1
        nodes = name if calls[name] == 1 else f"{name}/{calls[name]}"
        used[key].copy(model.graph, node, name, nodes, blocks[place])
    for body in used.values():
        model.graph.opset_imports.update(
            {domain: version for domain, version in body.graph.opset_imports.items() if domain != _DOMAIN}
        )
    model.graph.opset_imports.pop(_DOMAIN, None)


_bodies: dict[Hashable, _Body] = {}


def _weights(block: nn.Module) -> Hashable:
    """Return what the nodes of a block depend on of its weights: some may be of another type than the other blocks'."""
    return tuple((name, tuple(weight.shape), weight.dtype) for name, weight in block.named_parameters())


def _body(blocks: Repeated, place: int, node: ir.Node, export: Export) -> _Body:
    """Return the nodes of a block for inputs like those of `node`; they are exported once in a process."""
    inputs = tuple((str(value.shape), value.dtype) for value in node.inputs if value is not None)
    key = type(blocks[place]), blocks.likeness, _weights(blocks[place]), inputs
    if key not in _bodies:
        _bodies[key] = _Body.of(blocks, place, node, export)
    return _bodies[key]


class _WithWeights(nn.Module):
    """A block whose parameters are inputs, after the others."""

    def __init__(self, block: nn.Module, inputs: int) -> None:
        super().__init__()
        # In a tuple, which torch does not look into: its own parameters are not this module's.
        self._block, self._inputs = (block,), inputs
        self._names = [name for name, _ in block.named_parameters()]

    def forward(self, *given: Tensor) -> Any:
        """Run the block on the first inputs with the weights that follow."""
        weights = dict(zip(self._names, given[self._inputs :], strict=True))
        return torch.func.functional_call(self._block[0], weights, given[: self._inputs])


@dataclass
class _Body:
    """The nodes of a block; parameters: names of the weights that follow its inputs."""

    graph: ir.Graph
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, blocks: Repeated, place: int, node: ir.Node, export: Export) -> _Body:
        """Export block `place` for inputs like those of `node`, with the dynamic axes of those."""
        inputs = blocks.samples(len(node.inputs))
        parameters = dict(blocks[place].named_parameters())
        axes: dict[str, Any] = {}
        dynamic = []
        for value in node.inputs:
            assert value is not None and value.shape is not None
            named = {place: str(size) for place, size in enumerate(value.shape) if not isinstance(size, int)}
            dynamic.append({place: axes.setdefault(name, torch.export.Dim(name)) for place, name in named.items()})
        names = [f"input_{place}" for place in range(len(inputs))]
        names += [f"weight_{place}" for place in range(len(parameters))]
        model = export(
            _WithWeights(blocks[place], len(inputs)),
            (*inputs, *parameters.values()),
            names,
            ((*dynamic, *({} for _ in parameters)),),
        )
        return cls(model.graph, tuple(parameters))

    def copy(self, graph: ir.Graph, call: ir.Node, name: str, nodes: str, block: nn.Module) -> None:
        """Put the body's nodes in the place of `call`, the weights of `block`, called `name`, as initializers.

        nodes: what the names of nodes and of what they give begin with.
        """
        weights = dict(block.named_parameters())
        given = [*call.inputs, *(_initializer(graph, f"{name}.{part}", weights[part]) for part in self.parameters)]
        values: dict[ir.Value, ir.Value | None] = dict(zip(self.graph.inputs, given, strict=True))
        for inner, constant in self.graph.initializers.items():
            values[constant] = self._constant(graph, f"val_{call.attributes['of'].as_string()}.{inner}", constant)
        for node in self.graph:
            copied = ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else values[value] for value in node.inputs],
                list(_plain(node)),
                overload=node.overload,
                num_outputs=len(node.outputs),
                version=node.version,
                name=f"{nodes}/{node.name}",
            )
            for inner_value, value in zip(node.outputs, copied.outputs, strict=True):
                value.name = f"{nodes}/{inner_value.name}"
                value.shape, value.type = inner_value.shape, inner_value.type
                values[inner_value] = value
            graph.insert_before(call, copied)
        for result, inner_value in zip(call.outputs, self.graph.outputs, strict=True):
            made = values[inner_value]
            assert made is not None
            made.shape, made.type = result.shape, result.type
            if result.is_graph_output():
                made.name = result.name
                graph.outputs[graph.outputs.index(result)] = made
            result.replace_all_uses_with(made)
        graph.remove(call, safe=True)

    def _constant(self, graph: ir.Graph, name: str, inner: ir.Value) -> ir.Value:
        """Return the graph's own constant of this content, which all copies of a body share."""
        assert inner.const_value is not None
        while name in graph.initializers and not _same(graph.initializers[name].const_value, inner.const_value):
            name += "+"
        if name not in graph.initializers:
            value = ir.Value(name=name, shape=inner.shape, type=inner.type, const_value=inner.const_value)
            graph.register_initializer(value)
        return graph.initializers[name]


def _same(first: ir.TensorProtocol | None, second: ir.TensorProtocol) -> bool:
    if first is None or first.dtype != second.dtype or first.shape != second.shape:
        return False
    return first.tobytes() == second.tobytes()


def _initializer(graph: ir.Graph, name: str, parameter: Tensor) -> ir.Value:
    if name not in graph.initializers:
        tensor = TorchTensor(parameter.detach(), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]


def _plain(node: ir.Node) -> Iterator[ir.Attr]:
    """Yield a node's attributes; those that hold graphs, whose values would have to be copied too, do not occur."""
    for attribute in node.attributes.values():
        assert attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS), node.op_type
        yield attribute
