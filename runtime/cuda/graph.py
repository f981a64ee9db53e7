"""Recorded CUDA graphs: which of them may be replayed, and launching them."""

from __future__ import annotations

import weakref
from typing import Any

from himar_kernels import EngineError

from .driver import call


class Graph:
    """An instantiated CUDA graph, destroyed with its last reference."""

    def __init__(self, cudart: Any, graph: Any) -> None:
        """Instantiate a recorded graph, which may be destroyed afterwards."""
        self._cudart = cudart
        self._executable = call(cudart.cudaGraphInstantiate, graph, 0)
        weakref.finalize(self, cudart.cudaGraphExecDestroy, self._executable).atexit = False

    def launch(self, stream: int) -> None:
        """Queue a run of the graph."""
        call(self._cudart.cudaGraphLaunch, self._executable, stream)


def refuse_host_work(cudart: Any, graph: Any) -> None:
    """Raise EngineError unless every node of a recorded graph works on the device alone.

    A replay of a host's function would run it again, when what it works on is long gone (ONNX Runtime's frees memory),
    and a copy from or to the host would take whatever lies at that place by then.
    """
    kinds = cudart.cudaGraphNodeType
    harmless = {
        kinds.cudaGraphNodeTypeKernel,
        kinds.cudaGraphNodeTypeMemset,
        kinds.cudaGraphNodeTypeEmpty,
        kinds.cudaGraphNodeTypeMemcpy,
    }
    _, count = _nodes(cudart, graph, 0)
    nodes, _ = _nodes(cudart, graph, count)
    for node in nodes:
        kind = call(cudart.cudaGraphNodeGetType, node)
        if kind not in harmless:
            raise EngineError(f"it holds a node of type {kind.name.removeprefix('cudaGraphNodeType')}.")
        if kind == kinds.cudaGraphNodeTypeMemcpy:
            copy = call(cudart.cudaGraphMemcpyNodeGetParams, node)
            for way, place in (("from", copy.srcPtr), ("to", copy.dstPtr)):
                memory = call(cudart.cudaPointerGetAttributes, place.ptr).type
                if memory != cudart.cudaMemoryType.cudaMemoryTypeDevice:
                    raise EngineError(f"it holds a copy {way} {memory.name.removeprefix('cudaMemoryType')} memory.")


def _nodes(cudart: Any, graph: Any, count: int) -> tuple[list[Any], int]:
    nodes, found = call(cudart.cudaGraphGetNodes, graph, count)
    return (nodes or []), int(found)
