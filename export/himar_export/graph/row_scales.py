"""Quantises the inputs of matmuls with a scale per row, taken from the row when it comes.

A row's result therefore never depends on the other rows of a call. What is scaled is known at export: the results of
SiLU and GELU are hardly negative, so their zero stands low and their scale is the finer one. NaN would become an
integer like any other value; so that it is not lost, a row's range has 0 · its sum added, which is NaN where the row
has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from .observed import constant

MIDDLE, LOW = 128, 32
"""Where the zero of a row's 256 levels stands: for values of both signs, and for results of SiLU and GELU."""

_LEAST_RANGE = np.float32(1e-30)
"""Instead of a row's range where all its values are 0."""


@dataclass(frozen=True)
class QuantisedRows:
    """A quantised value: its integers, the range of each row (…, 1), and step and zero of integers in -1 … 1."""

    integers: ir.Value
    range: ir.Value
    step: ir.Value
    zero: ir.Value


@dataclass
class RowScales:
    """The inputs of a graph's matmuls, each quantised once, where it is first needed."""

    graph: ir.Graph
    done: dict[str, QuantisedRows] = field(default_factory=dict)

    def of(self, x: ir.Value, before: ir.Node) -> QuantisedRows:
        """Return a value quantised by nodes that stand before the node that needs it."""
        assert x.name is not None
        if x.name not in self.done:
            self.done[x.name] = self._quantise(x, before)
        return self.done[x.name]

    def _quantise(self, x: ir.Value, before: ir.Node) -> QuantisedRows:
        graph, place = self.graph, LOW if hardly_negative(x) else MIDDLE
        step = constant(graph, f"val_int8_step{place}", np.float32(1 / (255 - place)))
        zero = constant(graph, f"val_int8_zero{place}", np.uint8(place))
        last = constant(graph, "val_int8_last_axis", np.array([-1], np.int64))
        least = constant(graph, "val_int8_least", _LEAST_RANGE)
        # A negative value may be zero/(255-zero) of the range at most.
        room = constant(graph, f"val_int8_room{place}", np.float32(-(255 - place) / place))
        nothing = constant(graph, "val_int8_nothing", np.float32(0))
        high, low, total = (
            ir.node(name, [x, last], attributes={"keepdims": 1}) for name in ("ReduceMax", "ReduceMin", "ReduceSum")
        )
        below = ir.node("Mul", [low.outputs[0], room])
        spread = ir.node("Max", [high.outputs[0], below.outputs[0], least])
        normal = ir.node("Div", [x, spread.outputs[0]])
        integers = ir.node("QuantizeLinear", [normal.outputs[0], step, zero])
        # Comparisons skip NaN; a sum does not.
        flaw = ir.node("Mul", [total.outputs[0], nothing])
        span = ir.node("Add", [spread.outputs[0], flaw.outputs[0]])
        graph.insert_before(before, [high, low, total, below, spread, normal, integers, flaw, span])
        return QuantisedRows(integers.outputs[0], span.outputs[0], step, zero)


def hardly_negative(x: ir.Value) -> bool:
    """Whether a value comes out of SiLU (≥ -0.28) or GELU (≥ -0.17)."""
    node = x.producer()
    if node is None:
        return False
    factors = [each.producer() for each in node.inputs if each is not None] if node.op_type == "Mul" else []
    return node.op_type == "Gelu" or any(each is not None and each.op_type == "Sigmoid" for each in factors)
