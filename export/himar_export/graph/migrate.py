"""Moves the spread of a matmul's input channels into its weights, so that one scale suits all channels of the input.

x·W = (x / m) · (m·W) for any m > 0 per input channel. With fixed scales a channel whose values are ten times those of
the others costs these three bits; m takes that from x, and weights, whose scale is per output, bear it better.
m = max|x|^a / max|W|^(1-a) (SmoothQuant, arXiv 2211.10438, equation 4); a is chosen for each input, as below.

The division by m costs nothing where x = norm · scale + shift and both come out of matmuls: it goes into the columns of
their weights and their biases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .observed import Array, Range, constant

EXPONENTS = (0.25, 0.5, 0.75)

Step = Callable[[Array], Array]
"""The distance of two levels of a range, of every call that there may be, when its channels are divided by m."""

QuantiseWeight = Callable[[Array], tuple[NDArray[np.int8], Array]]


@dataclass(frozen=True)
class Share:
    """Something that is to be multiplied by 1 / m: a matmul's weight (by columns), or a vector (`weight` None)."""

    value: ir.Value
    is_weight: bool


def chosen_factors(seen: Range, weights: Sequence[Array], step: Step, quantise: QuantiseWeight) -> Array | None:
    """Return m (D,) that makes the error of the products least, by what rounding does on average; None for 1.

    Rounding x adds an error of variance step² / 12 to every channel, rounding W one of scale² / 12.
    """
    ones = np.ones_like(seen.high)
    largest = np.maximum(np.abs(seen.low), np.abs(seen.high))
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    if not largest.any() or not rows.any():
        return None
    largest, rows = (np.maximum(each, each.max() * np.float32(1e-4)) for each in (largest, rows))
    least, best = _error(seen, weights, ones, step, quantise), None
    for exponent in EXPONENTS:
        m = largest**exponent / rows ** (1 - exponent)
        m = (m / np.exp(np.log(m).mean())).astype(np.float32)
        error = _error(seen, weights, m, step, quantise)
        if error < least:
            least, best = error, m
    return best


def _error(seen: Range, weights: Sequence[Array], m: Array, step: Step, quantise: QuantiseWeight) -> float:
    total, inputs = 0.0, float(np.mean(step(m) ** 2))
    for weight in weights:
        moved = m[:, None] * weight
        scale = quantise(moved)[1]
        total += inputs * float((moved**2).sum()) + float((seen.square / m**2).sum()) * float((scale**2).sum())
    return total


def shares_of(x: ir.Value, users: Sequence[ir.Node]) -> list[Share] | None:
    """Return what has to be divided by m so that x is; None where something else than `users` reads a part of it."""
    if x.is_graph_output() or any(use.node not in users for use in x.uses()):
        return None
    found: list[Share] = []
    return found if _collect(x, found) else None


def _collect(value: ir.Value | None, found: list[Share]) -> bool:
    node = None if value is None else value.producer()
    if value is None or value.is_graph_output():
        return False
    if value.is_initializer():
        found.append(Share(value, False))
        return len(value.shape or ()) == 1 and len(value.uses()) == 1
    if node is None:
        return False
    if node.op_type == "Add":
        return all(_alone(each) and _collect(each, found) for each in node.inputs)
    if node.op_type == "Mul":
        for each in node.inputs[::-1]:
            mine: list[Share] = []
            if _alone(each) and _collect(each, mine):
                found += mine
                return True
        return False
    weight = node.inputs[1] if node.op_type == "MatMul" else None
    if weight is None or not weight.is_initializer() or len(weight.uses()) > 1:
        return False
    found.append(Share(weight, True))
    return True


def _alone(value: ir.Value | None) -> bool:
    return value is not None and len(value.uses()) == 1


def divide(shares: Sequence[Share], m: Array) -> None:
    """Divide by m what `shares_of` found, in place."""
    for share in shares:
        assert share.value.const_value is not None and share.value.name is not None
        array = share.value.const_value.numpy() / m
        share.value.const_value = ir.tensor(np.ascontiguousarray(array.astype(np.float32)), name=share.value.name)


def divided(graph: ir.Graph, x: ir.Value, m: Array, before: ir.Node) -> ir.Value:
    """Return x / m by a node of its own."""
    node = ir.node("Mul", [x, constant(graph, f"val_int8_divisor.{x.name}", 1 / m)])
    node.outputs[0].shape, node.outputs[0].type = x.shape, x.type
    graph.insert_before(before, node)
    return node.outputs[0]
