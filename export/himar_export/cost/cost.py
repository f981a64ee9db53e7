"""Defines the work of a network: floating-point operations, bytes moved, and the shortest time for both on a device.

Operations are those of matmuls, attention and convolutions, a multiply-add as two; what works value by value
(norms, activations, modulations) is left out, as is usual. Bytes are what must pass through memory if everything that
works value by value is fused into its neighbours and attention keeps its scores on the chip: every matmul reads its
weights and its input once and writes its output once, each in its own precision. Engines usually move more. What moves
less keeps a matmul's result on the chip for the next one: two matmuls in one kernel, or a cache large enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from himar_kernels import InputError

from ..graph.precision_choice import Precision, check_precision

FLOAT32 = 4
"""Bytes of a float32: residual streams, inputs and outputs, and the islands of half precision."""


@dataclass(frozen=True)
class Held:
    """Bytes of a weight of a component's matmuls, and of a value between them, in its precision.

    fp8: modulations and feed-forwards have weights of one byte.
    """

    weight: int = FLOAT32
    value: int = FLOAT32
    fp8: bool = False

    @property
    def layer(self) -> int:
        """Bytes of a weight of modulations and feed-forwards."""
        return 1 if self.fp8 else self.weight

    @property
    def between(self) -> int:
        """Bytes of a value between a feed-forward's activation and its second matmul."""
        return 1 if self.fp8 else self.value


FLOATS = Held()

HELD: Mapping[Precision, Held] = {
    "fp32": FLOATS,
    "fp16": Held(2, 2),
    "bf16": Held(2, 2),
    "int8": Held(1, FLOAT32),
    "fp8": Held(2, 2, fp8=True),
}


def held_in(precision: str, component: str) -> Held:
    """Return what a precision holds; BuildError, naming the component, for one that is unknown."""
    return HELD[check_precision(precision, component)]


@dataclass(frozen=True)
class Work:
    """Operations, and bytes of weights read and of activations read and written. Adds up; times a number of calls."""

    flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All bytes."""
        return self.weight_bytes + self.activation_bytes

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes + other.activation_bytes,
        )

    def __mul__(self, times: int) -> Work:
        return Work(self.flops * times, self.weight_bytes * times, self.activation_bytes * times)


@dataclass(frozen=True)
class Peaks:
    """What a device does at best: operations per second in the matmuls' precision, bytes per second of its memory.

    Either may be None, not given: then it bounds nothing. Raises InputError for one that is not positive.
    """

    flops_per_second: float | None = None
    bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        for name in ("flops_per_second", "bytes_per_second"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"the device's {name} is {value}; it must be a positive number.")

    @property
    def known(self) -> bool:
        """True when there is a peak to bound by."""
        return self.flops_per_second is not None or self.bytes_per_second is not None

    def seconds(self, work: Work) -> float:
        """Return the roofline's bound, max(operations / peak, bytes / bandwidth); 0 without a peak."""
        return max(self.compute_seconds(work), self.memory_seconds(work))

    def compute_seconds(self, work: Work) -> float:
        """Return what the operations alone take."""
        return 0.0 if self.flops_per_second is None else work.flops / self.flops_per_second

    def memory_seconds(self, work: Work) -> float:
        """Return what the bytes alone take."""
        return 0.0 if self.bytes_per_second is None else work.bytes / self.bytes_per_second


def matmul(
    rows: int, inputs: int, outputs: int, held: int = FLOAT32, read: int = FLOAT32, written: int = FLOAT32
) -> Work:
    """(rows, inputs) times (inputs, outputs), with a bias; bytes of a weight, of an input and of an output value."""
    return Work(
        2 * rows * inputs * outputs,
        (inputs + 1) * outputs * held,
        rows * (inputs * read + outputs * written),
    )


def attention(rows: int, tokens: int, width: int, held: int = FLOAT32, asking: int | None = None) -> Work:
    """Attention over (rows, tokens, width): q·kᵀ, then times v; heads cost the same.

    asking: positions of each row that have a query, and so a result; None is all.
    """
    queries = tokens if asking is None else asking
    return Work(4 * rows * queries * tokens * width, 0, 2 * rows * (tokens + queries) * width * held)


def convolution(images: int, side: int, inputs: int, outputs: int, kernel: int, held: int = FLOAT32) -> Work:
    """A convolution of stride 1 over (images, inputs, side, side) in float32, its weights of `held` bytes each."""
    pixels, weights = images * side**2, inputs * outputs * kernel**2
    return Work(2 * pixels * weights, (weights + outputs) * held, pixels * (inputs + outputs) * FLOAT32)


def table(values: int) -> Work:
    """Constants in float32 that are read whole: position tables, mask tokens."""
    return Work(0, values * FLOAT32, 0)


def passing(values: int, size: int = FLOAT32) -> Work:
    """Values that a fused operation reads beside a matmul's input: the stream of a residual sum, modulations."""
    return Work(0, 0, values * size)
