"""Quantises the inputs of matmuls with scales that are fixed at the build, from ranges that were observed.

A fixed scale costs no pass over the results: ONNX Runtime's matmul multiplies by it and adds the bias on its way out.
Beyond its range, MARGIN times what was observed, a value saturates. The input of a head's modulations, SiLU(t + z) of
an embedded timestep t and a condition z, has a scale for each timestep, in a table: all rows of a call share the
timestep. Either way nothing depends on the other rows of a call.

Integers hide NaN and infinity. A block's residual sum keeps them, but attention does not carry them to other positions
any more; so each row of an output has 0 · the inputs of its row added, which is NaN where they are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .observed import Array, Range, Timed, constant

MARGIN = np.float32(1.05)
LEVELS = 255
_TIMED_ZERO = 32
"""Where the zero of the levels of a SiLU stands."""
_LEAST_SILU = np.float32(-0.2785)


@dataclass(frozen=True)
class Scale:
    """How a value is quantised: the distance of its levels, one or one for each timestep (T,), and its zero."""

    step: Array
    zero: int


def fixed_scale(seen: Range, m: Array) -> Scale:
    """Return the scale of what was observed, its channels divided by m."""
    low, high = min(float((seen.low / m).min()), 0.0), max(float((seen.high / m).max()), 0.0)
    if low == high:
        return Scale(np.ones(1, np.float32), 0)
    step = MARGIN * np.float32(high - low) / LEVELS
    zero = np.rint(-LEVELS * low / (high - low))
    return Scale(np.full(1, step, np.float32), int(np.clip(zero, 0, LEVELS)))


def timed_scale(table: Array, seen: Range, m: Array) -> Scale:
    """Return a scale for each row of table (T, D), of SiLU(row + condition) / m; `seen` is of the condition."""
    middle, half = (seen.high + seen.low) / 2, MARGIN * (seen.high - seen.low) / 2
    inner = table + (middle + half)
    high = (_silu(np.maximum(inner, 0)) / m).max(axis=1)
    low = _LEAST_SILU * (1 / m).max()
    return Scale(np.maximum(high / (LEVELS - _TIMED_ZERO), -low / _TIMED_ZERO).astype(np.float32), _TIMED_ZERO)


def _silu(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def quantised(
    graph: ir.Graph, x: ir.Value, scale: Scale, source: Timed | None, before: ir.Node
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return integers of x, their step and their zero, by nodes that stand before the one that needs them."""
    name = f"val_int8.{x.name}"
    zero = constant(graph, f"{name}.zero", np.uint8(scale.zero))
    if source is None:
        step = constant(graph, f"{name}.step", scale.step[0])
    else:
        steps = constant(graph, f"{name}.steps", scale.step)
        scalar = constant(graph, "val_int8_scalar", np.array([], np.int64))
        index = ir.node("Reshape", [source.index, scalar])
        gather = ir.node("Gather", [steps, index.outputs[0]])
        graph.insert_before(before, [index, gather])
        step = gather.outputs[0]
    integers = ir.node("QuantizeLinear", [x, step, zero])
    graph.insert_before(before, integers)
    return integers.outputs[0], step, zero


def carry_flaws(graph: ir.Graph) -> None:
    """Add 0 · the float inputs of a row to that row of every output; rows are the first axis of all of them."""
    nothing, total = constant(graph, "val_int8_nothing", np.float32(0)), None
    first = next(iter(graph))
    for value in graph.inputs:
        if value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) < 2:
            continue
        axes = constant(graph, f"val_int8_axes{len(value.shape)}", np.arange(1, len(value.shape), dtype=np.int64))
        flawed = ir.node("Mul", [value, nothing])
        summed = ir.node("ReduceSum", [flawed.outputs[0], axes], attributes={"keepdims": 0})
        graph.insert_before(first, [flawed, summed])
        if total is None:
            total = summed.outputs[0]
        else:
            both = ir.node("Add", [total, summed.outputs[0]])
            graph.insert_before(first, both)
            total = both.outputs[0]
    assert total is not None
    for place, result in enumerate(list(graph.outputs)):
        assert result.shape is not None and result.name is not None
        shape = constant(graph, f"val_int8_row{len(result.shape)}", np.array([-1] + [1] * (len(result.shape) - 1)))
        aligned = ir.node("Reshape", [total, shape])
        whole = ir.node("Add", [result, aligned.outputs[0]])
        made = whole.outputs[0]
        made.shape, made.type = result.shape, result.type
        graph.append(aligned)
        graph.append(whole)
        made.name, result.name = result.name, f"{result.name}_of_integers"
        graph.outputs[place] = made
