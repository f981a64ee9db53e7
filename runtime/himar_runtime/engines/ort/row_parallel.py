"""Splits calls of a small network: its rows go to several threads, each of which runs the whole graph.

An operator of a small network is over in a few microseconds, less than its threads need to meet. Rows of a head or of
the decoder do not depend on each other, so here the threads meet once per call instead of once per operator. Every
thread reads all the weights; a network that does not fit in the cores' caches is better off with ONNX Runtime's own.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from himar_runtime.bundle.schema import ComponentSpec

MOST_WEIGHTS = 16 << 20
"""Bytes of a network's weights that several cores can hold in their caches beside its activations."""

LEAST_OPERATIONS = 35_000_000
"""Of a part: half a millisecond of a core. Another core is awake and under way after a quarter of one."""

MOST_POSITIONS = 2048
"""Of a part where there are more parts than threads: activations of more leave a core's cache."""

Arrays = Mapping[str, NDArray[Any]]

_WEIGHT_BYTES: Mapping[str, int] = {"fp16": 2, "int8": 1}
"""Bytes of a matmul's weight by precision; 4 in others that a CPU runs."""


@dataclass(frozen=True)
class Workers:
    """The threads of a session that has none of its own: the caller's and a pool's, shared by all of its engines."""

    threads: int
    pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool", ThreadPoolExecutor(self.threads - 1, thread_name_prefix="himar-rows"))


class RowParts:
    """Runs a session of one thread on parts of an engine's rows.

    The contract must allow it (`shared_rows`), and its spec say how many bytes of weights there are.
    """

    def __init__(self, session: Any, spec: ComponentSpec, workers: Workers) -> None:
        self._session = session
        self._spec = spec
        self._workers = workers
        self._rows = shared_rows(spec) or frozenset()
        # Of a position: each weight is used once, at least.
        self._operations = 2 * (spec.weight_bytes or 0) // _WEIGHT_BYTES.get(spec.precision, 4)
        self._inner_shapes: dict[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]] = {}
        self._bindings: list[Any] = []
        self._kept: list[Any] = []

    def output_shapes(self, inputs: Arrays) -> list[tuple[int, ...]]:
        """Return the shapes of the outputs of these inputs, by a run of one row where they were not seen before."""
        inner = tuple(inputs[tensor.name].shape[tensor.name in self._rows :] for tensor in self._spec.inputs)
        if inner not in self._inner_shapes:
            first = {name: array[:1] if name in self._rows else array for name, array in inputs.items()}
            self._inner_shapes[inner] = tuple(output.shape[1:] for output in self._session.run(None, first))
        rows = next(len(inputs[tensor.name]) for tensor in self._spec.inputs if tensor.name in self._rows)
        return [(rows, *shape) for shape in self._inner_shapes[inner]]

    def bind(self, inputs: Arrays, outputs: Arrays) -> None:
        """Cut these arrays into as many parts as are worth it: none where one call is best."""
        positions = max(math.prod(array.shape[:-1]) for array in (*inputs.values(), *outputs.values()))
        rows = len(outputs[self._spec.outputs[0].name])
        count = min(self._workers.threads, rows, positions * self._operations // LEAST_OPERATIONS)
        if count > 1:
            count = min(rows, count * -(-positions // (count * MOST_POSITIONS)))
        edges = [rows * part // count for part in range(count + 1)] if count > 1 else []
        self._bindings, self._kept = [], []
        for first, last in itertools.pairwise(edges):
            self._bindings.append(self._part(inputs, outputs, slice(first, last)))

    @property
    def count(self) -> int:
        """Parts of the arrays that are bound."""
        return len(self._bindings)

    def run(self) -> None:
        """Run every part; a part that no thread of the pool is free for is the caller's."""
        left = deque(self._bindings)
        helpers = [
            self._workers.pool.submit(self._work, left) for _ in range(min(self._workers.threads, self.count) - 1)
        ]
        try:
            self._work(left)
        finally:
            _end(helpers)
        for helper in helpers:
            if not helper.cancelled():
                helper.result()

    def _work(self, left: deque[Any]) -> None:
        while True:
            try:
                binding = left.popleft()
            except IndexError:
                return
            self._session.run_with_iobinding(binding)

    def _part(self, inputs: Arrays, outputs: Arrays, cut: slice) -> Any:
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        for arrays, bind in ((inputs, binding.bind_ortvalue_input), (outputs, binding.bind_ortvalue_output)):
            for name, array in arrays.items():
                value = OrtValue.ortvalue_from_numpy(array[cut] if name in self._rows else array)
                self._kept.append(value)  # the binding itself does not keep the memory
                bind(name, value)
        return binding


def shared_rows(spec: ComponentSpec) -> frozenset[str] | None:
    """Return the tensors that are cut by rows; None when the component's contract does not allow it.

    It does when all outputs have one leading axis, and every input either has no dynamic axis, or is of real numbers
    and leads with that axis too. Whole numbers may be a transformer's index lists, which point into other rows.
    """
    leading = {tensor.shape[0] if tensor.shape else 0 for tensor in spec.outputs}
    axis = next(iter(leading))
    if len(leading) != 1 or not isinstance(axis, str):
        return None
    dynamic = [tensor for tensor in spec.inputs if any(isinstance(size, str) for size in tensor.shape)]
    if not dynamic or any(tensor.shape[0] != axis or tensor.dtype == "int64" for tensor in dynamic):
        return None
    cut = [*dynamic, *spec.outputs]
    return None if any(axis in tensor.shape[1:] for tensor in cut) else frozenset(tensor.name for tensor in cut)


def _end(helpers: Sequence[Future[None]]) -> None:
    """Wait until no part is under way any more; helpers that did not begin are not waited for."""
    wait([helper for helper in helpers if not helper.cancel()])
