"""Observes the inputs of a graph's matmuls while it runs: what int8 needs to know to give them fixed scales.

Observing adds outputs to a float32 graph, per input of a matmul and channel its least and largest value and the mean of
its squares over all rows of a call. Beside a SiLU of an embedded timestep and a condition, whose range changes with the
timestep, the condition is observed: what each of the table's timesteps does to it is known without a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.float32]

_LOW, _HIGH, _SQUARE = "low of ", "high of ", "square of "


@dataclass(frozen=True)
class Range:
    """What was seen of a value, all (D,): least and largest per channel, mean of the squares."""

    low: Array
    high: Array
    square: Array


@dataclass(frozen=True)
class Timed:
    """A SiLU of table[index] + condition, its `table` (T, D) a constant."""

    table: ir.Value
    index: ir.Value
    condition: ir.Value


class Observations:
    """The ranges of a graph's values by name, over all calls that were added."""

    def __init__(self) -> None:
        self._found: dict[str, list[Array]] = {}
        self._calls = 0

    def add(self, outputs: Mapping[str, Array]) -> None:
        """Take one call's outputs of a graph that `observe` changed; others than its own are passed over."""
        self._calls += 1
        for place, prefix in enumerate((_LOW, _HIGH, _SQUARE)):
            for key, value in outputs.items():
                if not key.startswith(prefix):
                    continue
                name = key.removeprefix(prefix)
                if name not in self._found:
                    zeros = np.zeros_like(value)
                    self._found[name] = [zeros + np.inf, zeros - np.inf, zeros]
                known = self._found[name]
                known[place] = (np.minimum, np.maximum, np.add)[place](known[place], value)

    def ranges(self) -> dict[str, Range]:
        """Return what was seen; empty before the first call."""
        calls = np.float32(self._calls)
        return {name: Range(low, high, square / calls) for name, (low, high, square) in self._found.items()}


def observe(model: ir.Model, values: list[ir.Value]) -> None:
    """Give a graph the outputs that `Observations` takes, for `values` (…, D), in place."""
    graph, done = model.graph, set[str]()
    for value in values:
        assert value.name is not None and value.shape is not None
        if value.name in done:
            continue
        done.add(value.name)
        axes = constant(graph, f"{value.name} rows", np.arange(len(value.shape) - 1, dtype=np.int64))
        square = ir.node("Mul", [value, value])
        reductions = [
            ir.node(operator, [of, axes], attributes={"keepdims": 0})
            for operator, of in (("ReduceMin", value), ("ReduceMax", value), ("ReduceMean", square.outputs[0]))
        ]
        for node in (square, *reductions):
            graph.append(node)
        for node, prefix in zip(reductions, (_LOW, _HIGH, _SQUARE), strict=True):
            result = node.outputs[0]
            result.name, result.type = prefix + value.name, ir.TensorType(ir.DataType.FLOAT)
            graph.outputs.append(result)


def timed(x: ir.Value) -> Timed | None:
    """Return what x is the SiLU of, where that is a constant table's row and a condition; else None."""
    product = x.producer()
    if product is None or product.op_type != "Mul":
        return None
    for inner, gate in (tuple(product.inputs), tuple(product.inputs)[::-1]):
        sigmoid, total = gate.producer() if gate else None, inner.producer() if inner else None
        if sigmoid is None or sigmoid.op_type != "Sigmoid" or sigmoid.inputs[0] is not inner:
            continue
        if total is None or total.op_type != "Add":
            continue
        for row, condition in (tuple(total.inputs), tuple(total.inputs)[::-1]):
            gather = row.producer() if row else None
            if gather is None or gather.op_type != "Gather" or condition is None:
                continue
            table, index = gather.inputs
            if table is not None and index is not None and table.is_initializer() and index.is_graph_input():
                return Timed(table, index, condition)
    return None


def constant(graph: ir.Graph, name: str, array: NDArray[np.generic] | np.generic) -> ir.Value:
    """Return the graph's initializer of this name; made of `array` where there is none yet."""
    if name not in graph.initializers:
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(np.shape(array)), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
    return graph.initializers[name]
