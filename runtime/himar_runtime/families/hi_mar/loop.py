"""The two-phase loop: order → for each step: indices → transformer → head → tokens (docs/model.md §6).

Phase low reveals the low positions and keeps their pivots; phase high reveals the image tokens, led by the
pivots. Which components run a phase, and what it leaves, its PhaseInfo says; a single scale has phase high alone.
Rows are [conditional; unconditional] under guidance, else conditional alone.

Everything is queued, on the host or on a GPU, and every buffer lies there. What a step needs to know travels before the
first launch, so that on a GPU the host only queues from then on (docs/resident-loop.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import Draws, Launch
from himar_kernels.families.hi_mar import (
    STEP_STATE,
    Chain,
    Phase,
    SamplingConfig,
    Step,
    chain_table,
    launches,
    phase_chains,
    plan,
    step_state,
)
from himar_kernels.families.hi_mar.device_state import FAULT_COMPONENTS
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_runtime.queue.device import DeviceTensor
from himar_runtime.queue.queue import Queue

from .buffers import Buffers
from .noise import NoiseSource


@dataclass(frozen=True)
class Request:
    """What to generate: labels int64 (B,), the image indices int64 (B,) that draws count by, and how."""

    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    sampling: SamplingConfig
    draws: Draws


@dataclass(frozen=True)
class Lane:
    """A queue, and the buffers that the loop keeps its state in.

    widths: of the condition that each phase's transformer hands to its head.
    """

    queue: Queue
    buffers: Buffers
    model: ModelInfo
    widths: Mapping[Phase, int]


class Loop:
    """A request under way: B images, which every step of the plan takes further."""

    def __init__(self, lane: Lane, request: Request) -> None:
        """Upload what the request's steps need and queue the orders of its images."""
        self._queue, self._buffers, self._model, self._widths = lane.queue, lane.buffers, lane.model, lane.widths
        self._batch = len(request.labels)
        self._chains = phase_chains(request.sampling)
        self._noise = NoiseSource(lane.queue, lane.buffers, lane.model, request.draws, request.images)
        self.steps = plan(request.sampling, lane.model.low_positions, lane.model.high_positions)
        states = np.empty(len(self.steps), STEP_STATE)  # joining records would close their gaps
        for index, step in enumerate(self.steps):
            length = len(self._chains[step.phase])
            states[index] = step_state(self._noise.seed, step, length, request.sampling.temperature)
        unconditional = np.full_like(request.labels, lane.model.classes)
        device, buffers, row = lane.queue.device, lane.buffers, 2 * self._batch * np.dtype(np.float32).itemsize
        device.upload(buffers.steps, states)
        device.upload(buffers.state, states[:1])  # the orders need the seed
        device.upload(buffers.images, request.images.astype(np.uint32))
        device.upload(buffers.class_row, np.concatenate([request.labels, unconditional]).astype(np.int64))
        device.clear(buffers.fault, np.dtype(np.uint32).itemsize)
        for phase in lane.model.phases:
            own = buffers.of(phase)
            device.upload(own.timesteps, self._chains[phase.name].timesteps)
            device.upload(own.chain, chain_table(self._chains[phase.name]))
            # The transformers embed masked positions too, before they drop them.
            device.clear(own.tokens, row * phase.positions * lane.model.channels)
            if phase.leaves_pivots:
                device.clear(buffers.pivots, row * phase.positions * lane.model.width)
        for phase in lane.model.phases:
            self._noise.order(phase)

    def step(self, index: int) -> None:
        """Queue a step of the plan, on what the steps before it left: run the transformer, sample with the head."""
        step, size = self.steps[index], STEP_STATE.itemsize
        self._queue.device.copy(self._buffers.state, self._buffers.steps + index * size, size)
        phase = self._model.phase(step.phase)
        values = self._values(phase, step)
        self._noise.begin(phase, step)
        self._transform(phase, step, values)
        if phase.kind == "mlp":
            self._sample_revealed(phase, step, values)
        else:
            self._sample_all(phase, step, values)

    def _transform(self, phase: PhaseInfo, step: Step, values: Mapping[str, Any]) -> None:
        """Leave the condition where the phase's head looks for it, the pivots that the phase leaves, and the initial x.

        An MLP head takes the rows that the step reveals, at `head_condition`; a DiT head takes all, at `condition`.
        """
        launch = self._queue.launch

        def enqueue() -> None:
            launch(launches.index_lists, values)
            self._queue.run(phase.transformer, self._transformer_tensors(phase, step))
            if phase.kind == "mlp":
                launch(launches.reveal_low if phase.leaves_pivots else launches.reveal_conditions, values)
            else:
                launch(launches.check_finite, values)
                if phase.leaves_pivots:
                    launch(launches.reveal_pivots, values)
            launch(launches.start_low if phase.kind == "mlp" else launches.start_high, values)

        takes_rows = phase.kind == "mlp" or phase.leaves_pivots
        shapes = (self._batch, step.halves, step.masked, step.revealed if takes_rows else None)
        self._queue.segment((phase.transformer, *shapes, values["noise"] is not None), enqueue)

    def _sample_revealed(self, phase: PhaseInfo, step: Step, values: Mapping[str, Any]) -> None:
        """MLP head: each revealed position by itself, so its rows of every half are packed to (H·B·r, W)."""
        rows, C = step.halves * self._batch * step.revealed, self._model.channels
        tensors = {
            "x": self._buffers.placed("x", rows, C),
            "timestep": self._buffers.placed("timestep", 1),
            "condition": self._buffers.placed("head_condition", rows, self._widths[phase.name]),
            "prediction": self._buffers.placed("prediction", rows, 2 * C),
        }
        follow = launches.mlp_step if self._adds_noise(phase) else launches.mlp_solve
        self._sample(phase, step, values, tensors, follow)

    def _sample_all(self, phase: PhaseInfo, step: Step, values: Mapping[str, Any]) -> None:
        """DiT head: all n positions, known ones following their tokens; what is not known takes its result.

        What was denoised but not revealed travels along and is masked for the next step.
        """
        rows, n, C = step.halves * self._batch, phase.positions, self._model.channels
        tensors = {
            "x": self._buffers.placed("x", rows, n, C),
            "timestep": self._buffers.placed("timestep", 1),
            "condition": self._buffers.placed("condition", rows, n, self._widths[phase.name]),
            "prediction": self._buffers.placed("prediction", rows, n, C),
        }
        follow = launches.dit_step if self._adds_noise(phase) else launches.dit_solve
        self._sample(phase, step, values, tensors, follow)

    def _sample(
        self,
        phase: PhaseInfo,
        step: Step,
        values: Mapping[str, Any],
        tensors: Mapping[str, DeviceTensor],
        follow: Callable[..., Launch],
    ) -> None:
        """Go down the chain of a phase's head (docs/model.md §5): only x and the timestep change between its runs."""

        def enqueue() -> None:
            self._queue.run(phase.head, tensors)
            self._queue.launch(follow, values)

        self._queue.hold(phase.head, {"condition": tensors["condition"]})
        shapes = (self._batch, step.halves, tensors["x"].shape)
        segment = (phase.head, *shapes, self._adds_noise(phase), values["noise"] is not None)
        for _ in self._noise.down(self._chains[phase.name]):
            self._queue.segment(segment, enqueue)

    def _adds_noise(self, phase: PhaseInfo) -> bool:
        """True where the steps of the phase's chain add noise; a solver's add none."""
        return isinstance(self._chains[phase.name], Chain)

    def _transformer_tensors(self, phase: PhaseInfo, step: Step) -> dict[str, DeviceTensor]:
        buffers, model, rows, n = self._buffers, self._model, step.halves * self._batch, phase.positions
        tensors = {
            "class_row": buffers.placed("class_row", rows),
            "visible": buffers.placed("visible", rows, model.buffer + phase.always + n - step.masked),
            "sources": buffers.placed("sources", rows, model.buffer + model.positions),
            phase.tokens: DeviceTensor(buffers.of(phase).tokens, (rows, n, model.channels)),
            "condition": buffers.placed("condition", rows, n, self._widths[phase.name]),
        }
        if phase.leaves_pivots:
            tensors["pivots"] = buffers.placed("engine_pivots", rows, n, model.width)
        elif phase.pivot_width:  # visual ones are the low tokens, which lie in both halves too
            source = "low_tokens" if model.pivots == "visual" else "pivots"
            tensors["pivots"] = buffers.placed(source, rows, phase.always, phase.pivot_width)
        return tensors

    def _values(self, phase: PhaseInfo, step: Step) -> dict[str, Any]:
        """The arguments of all kernels of a step by name: addresses, and sizes by their letters."""
        buffers, model, own = self._buffers, self._model, self._buffers.of(phase)
        B, H, n, W = self._batch, step.halves, phase.positions, self._widths[phase.name]
        return {
            **vars(buffers),
            **{"timesteps": own.timesteps, "chain": own.chain, "ranks": own.ranks},
            **{"tokens": own.tokens, "low_tokens": own.tokens, "noise": self._noise.address},
            **{"batch": B, "halves": H, "n": n, "S": n, "N": n, "r": step.revealed, "C": model.channels},
            **{"context": model.buffer, "always": phase.always, "positions": model.positions},
            **{"W": W, "D": model.width, "values": buffers.condition, "count": H * B * n * W},
            "component": FAULT_COMPONENTS.index(phase.transformer) + 1,
        }
