"""Keys and values of all coarser scales, for the components that attend to them (docs/hmar-model.md §4, VAR).

An engine takes those of each row's blocks in one piece (R, blocks, P, C) and leaves this scale's own beside them. With
every scale each piece grows, so it is copied to its new place on the device, from one of two buffers to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from himar_kernels import Launch
from himar_kernels.families.hmar import launches
from himar_kernels.families.hmar.sizes import VAR_TAIL, VAR_TRUNK, ModelInfo
from himar_runtime.queue.device import DeviceTensor, ResidentDevice, allocate_together

from .buffers import FLOAT


@dataclass(frozen=True)
class Past:
    """The cache of one component: its blocks, and at scale s the addresses keys[s % 2] and values[s % 2].

    own_keys, own_values: where the engine leaves those of the scale itself; components share them.
    """

    model: ModelInfo
    blocks: int
    keys: tuple[int, int]
    values: tuple[int, int]
    own_keys: int
    own_values: int

    def tensors(self, scale: int, rows: int) -> dict[str, DeviceTensor]:
        """Return the tensors of a run at a scale: keys and values of the coarser ones, and its own."""
        scales, width = self.model.scales, self.model.width
        past = (rows, self.blocks, scales.starts[scale], width)
        own = (rows, self.blocks, scales.cells[scale], width)
        return {
            "keys": DeviceTensor(self.keys[scale % 2], past),
            "values": DeviceTensor(self.values[scale % 2], past),
            "own_keys": DeviceTensor(self.own_keys, own),
            "own_values": DeviceTensor(self.own_values, own),
        }

    def joins(self, scale: int, rows: int) -> list[Launch]:
        """Return the launches after a run at a scale, which put its own after those of the coarser ones."""
        scales = self.model.scales
        if scale == len(scales) - 1:
            return []  # no scale comes after it
        return [
            launches.join_past(
                joined=cache[(scale + 1) % 2], past=cache[scale % 2], own=own, N=rows * self.blocks,
                P=scales.starts[scale], T=scales.cells[scale], C=self.model.width,
            )
            for cache, own in ((self.keys, self.own_keys), (self.values, self.own_values))
        ]  # fmt: skip


def allocate_pasts(device: ResidentDevice, model: ModelInfo, rows: int) -> dict[str, Past]:
    """Allocate the caches of both components for `rows` rows; EngineError when the device has no room."""
    found = allocate_together(device, past_sizes(model, rows))

    def pair(component: str, name: str) -> tuple[int, int]:
        return found[f"{component} {name} 0"], found[f"{component} {name} 1"]

    return {
        component: Past(
            model, count, pair(component, "keys"), pair(component, "values"), found["own_keys"], found["own_values"]
        )
        for component, count in _blocks(model).items()
    }


def past_sizes(model: ModelInfo, rows: int) -> dict[str, int]:
    """Return the bytes of every cache of both components for so many rows."""
    scales, blocks = model.scales, _blocks(model)
    floats = rows * model.width * FLOAT
    # The finest scale reads as many cells as start it, the one before it, from the other buffer, fewer.
    read = {(len(scales) - 1) % 2: scales.starts[-1], len(scales) % 2: max(1, scales.starts[-2])}
    sizes = {
        f"{component} {name} {place}": floats * count * read[place]
        for component, count in blocks.items()
        for name in ("keys", "values")
        for place in (0, 1)
    }
    own = floats * max(blocks.values()) * scales.cells[-1]
    return {**sizes, "own_keys": own, "own_values": own}


def _blocks(model: ModelInfo) -> dict[str, int]:
    """Return how many blocks of each component have caches."""
    return {VAR_TRUNK: model.base, VAR_TAIL: model.tail}
