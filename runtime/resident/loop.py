"""The two-phase loop as launches: indices → transformer → gather → head and reverse step, all on the device.

The same steps as `himar_runtime.loop` (himar-model.md §6), with every buffer in device memory. What a step needs to
know travels before the first launch: from then on the host only queues.
"""

from __future__ import annotations

import numpy as np

from himar_kernels import STEP_STATE, Chain, Step, chain_table, plan, step_state

from ..loop import Request
from .high import queue_high_step
from .lane import Lane, Work
from .low import queue_low_step
from .noise import NoiseSource


def begin(lane: Lane, request: Request) -> Work:
    """Upload what a request's steps need and queue the orders of its images."""
    buffers, device, model, sampling = lane.buffers, lane.device, lane.model, request.sampling
    noise = NoiseSource(device, buffers, model, request)
    low_chain, high_chain = (Chain.build(n) for n in (sampling.low_diffusion_steps, sampling.high_diffusion_steps))
    lengths = {"low": len(low_chain), "high": len(high_chain)}
    steps = plan(sampling, model.low_positions, model.high_positions)
    states = np.empty(len(steps), STEP_STATE)  # joining records would close their gaps
    for index, step in enumerate(steps):
        states[index] = step_state(noise.seed, step, lengths[step.phase], sampling.temperature)
    device.upload(buffers.steps, states)
    device.upload(buffers.state, states[:1])  # the orders need the seed
    device.upload(buffers.images, request.images.astype(np.uint32))
    unconditional = np.full_like(request.labels, model.classes)
    device.upload(buffers.class_row, np.concatenate([request.labels, unconditional]).astype(np.int64))
    device.upload(buffers.low_timesteps, low_chain.timesteps)
    device.upload(buffers.high_timesteps, high_chain.timesteps)
    device.upload(buffers.low_chain, chain_table(low_chain))
    device.upload(buffers.high_chain, chain_table(high_chain))
    device.clear(buffers.fault, np.dtype(np.uint32).itemsize)
    # The transformers embed masked positions too, before they drop them.
    row = 2 * len(request.labels) * np.dtype(np.float32).itemsize
    device.clear(buffers.low_tokens, row * model.low_positions * model.channels)
    device.clear(buffers.tokens, row * model.high_positions * model.channels)
    device.clear(buffers.pivots, row * model.low_positions * model.width)
    noise.order("low", model.low_positions, buffers.low_ranks)
    noise.order("high", model.high_positions, buffers.high_ranks)
    return Work(lane, request, noise, low_chain, high_chain)


def queue_step(work: Work, index: int, step: Step) -> None:
    """Queue an autoregressive step, the `index`-th of the plan, on what the steps before it left."""
    buffers, size = work.lane.buffers, STEP_STATE.itemsize
    work.lane.device.copy(buffers.state, buffers.steps + index * size, size)
    if step.phase == "low":
        queue_low_step(work, step)
    else:
        queue_high_step(work, step)
