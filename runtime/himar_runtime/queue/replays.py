"""Recorded graphs of the loop's segments, one for every combination of shapes.

What changes between two runs of a segment (seed, step, k, guidance) lies in device memory, so the shapes alone decide
whether a graph can be replayed. A segment runs directly the first time, which also warms its engine up, is recorded the
second time and replayed from then on.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable

from himar_kernels import EngineError

from .device import ResidentDevice, ResidentEngine

log = logging.getLogger(__name__)

MOST_GRAPHS = 256

Enqueue = Callable[[], None]


class Replays:
    """The graphs of one lane, the least recently used given up beyond MOST_GRAPHS."""

    def __init__(self, device: ResidentDevice, engines: Collection[ResidentEngine]) -> None:
        """engines: those whose runs are in the segments; each says whether it can be recorded."""
        self._device, self._engines = device, engines
        self._graphs: OrderedDict[Hashable, Enqueue | None] = OrderedDict()
        self._epoch = device.epoch
        self._refusal = self._refused()
        if self._refusal is not None:
            log.info("without CUDA graphs: %s", self._refusal)

    def run(self, key: Hashable, enqueue: Enqueue) -> None:
        """Queue a segment: `enqueue` must queue the same for the same key, and depend on nothing else."""
        if self._epoch != self._device.epoch:
            self._graphs.clear()
            self._epoch = self._device.epoch
        if self._refusal is not None:
            enqueue()
        elif key not in self._graphs:
            enqueue()
            self._graphs[key] = None
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(key)
            (self._graphs[key] or self._recorded(key, enqueue))()

    def _recorded(self, key: Hashable, enqueue: Enqueue) -> Enqueue:
        try:
            if (refused := self._refused()) is not None:
                raise EngineError(refused)
            graph = self._device.record(enqueue)
        except EngineError as error:
            log.warning("without CUDA graphs from here on, because segment %s cannot be recorded: %s", key, error)
            self._refusal = str(error)
            return enqueue
        self._graphs[key] = graph
        log.debug("recorded segment %s", key)
        return graph

    def _refused(self) -> str | None:
        return next((why for engine in self._engines if (why := engine.recordable) is not None), None)
