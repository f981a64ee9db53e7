"""The two-phase loop as launches: indices → transformer → gather → head and reverse step, all on the device.

The same steps as `himar_runtime.loop` (himar-model.md §6), with every buffer in device memory. What a step needs to
know travels before the first launch: from then on the host only queues.
"""

from __future__ import annotations

import numpy as np

from himar_kernels import STEP_STATE, Step, chain_table, phase_chains, plan, step_state

from ..loop import Request
from .dit_head import queue_dit_head
from .lane import Lane, Work
from .mlp_head import queue_mlp_head
from .noise import NoiseSource
from .transformer import queue_transformer


def begin(lane: Lane, request: Request) -> Work:
    """Upload what a request's steps need and queue the orders of its images."""
    buffers, device, model, sampling = lane.buffers, lane.device, lane.model, request.sampling
    noise = NoiseSource(device, buffers, model, request)
    chains = phase_chains(sampling)
    steps = plan(sampling, model.low_positions, model.high_positions)
    states = np.empty(len(steps), STEP_STATE)  # joining records would close their gaps
    for index, step in enumerate(steps):
        states[index] = step_state(noise.seed, step, len(chains[step.phase]), sampling.temperature)
    device.upload(buffers.steps, states)
    device.upload(buffers.state, states[:1])  # the orders need the seed
    device.upload(buffers.images, request.images.astype(np.uint32))
    unconditional = np.full_like(request.labels, model.classes)
    device.upload(buffers.class_row, np.concatenate([request.labels, unconditional]).astype(np.int64))
    for phase in model.phases:
        device.upload(buffers.of(phase).timesteps, chains[phase.name].timesteps)
        device.upload(buffers.of(phase).chain, chain_table(chains[phase.name]))
    device.clear(buffers.fault, np.dtype(np.uint32).itemsize)
    # The transformers embed masked positions too, before they drop them.
    row = 2 * len(request.labels) * np.dtype(np.float32).itemsize
    for phase in model.phases:
        device.clear(buffers.of(phase).tokens, row * phase.positions * model.channels)
        if phase.leaves_pivots:
            device.clear(buffers.pivots, row * phase.positions * model.width)
    for phase in model.phases:
        noise.order(phase.name, phase.positions, buffers.of(phase).ranks)
    return Work(lane, request, noise, chains)


def queue_step(work: Work, index: int, step: Step) -> None:
    """Queue an autoregressive step, the `index`-th of the plan, on what the steps before it left."""
    buffers, size = work.lane.buffers, STEP_STATE.itemsize
    work.lane.device.copy(buffers.state, buffers.steps + index * size, size)
    phase = work.lane.model.phase(step.phase)
    queue_transformer(work, phase, step)
    if phase.kind == "mlp":
        queue_mlp_head(work, phase, step)
    else:
        queue_dit_head(work, phase, step)
