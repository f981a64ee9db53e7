"""The two-phase loop as launches: indices → transformer → gather → head and reverse step, all on the device.

The same steps as `himar_runtime.families.hi_mar.loop` (docs/model.md §6), with every buffer in device memory. What a
step needs to know travels before the first launch: from then on the host only queues.
"""

from __future__ import annotations

import functools

import numpy as np

from himar_kernels import Launch
from himar_kernels.arithmetic.draws import image_origins
from himar_kernels.families.hi_mar import STEP_STATE, Step, chain_table, launches, plan, step_chain, step_state
from himar_kernels.families.hi_mar.device_state import FAULT_COMPONENTS
from himar_kernels.families.hi_mar.phases import PhaseInfo
from himar_runtime.families.hi_mar.loop import Request, Shown
from himar_runtime.families.hi_mar.resident.lane import Lane, Work
from himar_runtime.families.hi_mar.resident.noise import NoiseSource
from himar_runtime.queue.device import DeviceTensor


def begin(lane: Lane, request: Request, shown: Shown) -> Work:
    """Upload what a request's steps need, with what its rows show, and queue the orders of its images."""
    buffers, device, model, sampling = lane.buffers, lane.device, lane.model, request.sampling
    noise = NoiseSource(device, buffers, model, request)
    steps = plan(sampling, model.low_positions, model.high_positions)
    states = np.empty(len(steps), STEP_STATE)  # joining records would close their gaps
    for index, step in enumerate(steps):
        states[index] = step_state(step, sampling.temperature)
    device.upload(buffers.steps, states)
    device.upload(buffers.origins, image_origins(request.draws, request.images))
    name, rows = shown
    device.upload(getattr(buffers, name), rows)
    work = Work(lane, request, noise, {})
    for phase in model.phases:
        _have_chain(work, phase, next(step for step in steps if step.phase == phase.name))
    device.clear(buffers.fault, np.dtype(np.uint32).itemsize)
    # The transformers embed masked positions too, before they drop them.
    row = 2 * len(request.labels) * np.dtype(np.float32).itemsize
    for phase in model.phases:
        device.clear(buffers.of(phase).tokens, row * phase.positions * model.channels)
        if phase.leaves_pivots:
            device.clear(buffers.pivots, row * phase.positions * model.width)
    for phase in model.phases:
        noise.order(phase.name, phase.positions, buffers.of(phase).ranks)
    return work


def queue_step(work: Work, index: int, step: Step) -> None:
    """Queue an autoregressive step, the `index`-th of the plan, on what the steps before it left."""
    buffers, size = work.lane.buffers, STEP_STATE.itemsize
    work.lane.device.copy(buffers.state, buffers.steps + index * size, size)
    phase = work.lane.model.phase(step.phase)
    _have_chain(work, phase, step)
    queue_transformer(work, phase, step)
    if phase.kind == "mlp":
        queue_mlp_head(work, phase, step)
    else:
        queue_dit_head(work, phase, step)


def _have_chain(work: Work, phase: PhaseInfo, step: Step) -> None:
    """Upload the tables of the step's chain unless they are those of the phase's step before."""
    chain = step_chain(work.request.sampling, step)
    if work.chains.get(phase.name) is chain:
        return
    own, timesteps = work.lane.buffers.of(phase), chain.timesteps
    if work.held(phase) is not None:
        evaluations = work.request.sampling.evaluations(phase.name)
        timesteps = evaluations.held_timesteps(timesteps, evaluations.halves(step.diffusion_steps, step.halves))
    work.lane.device.upload(own.timesteps, timesteps)
    work.lane.device.upload(own.chain, chain_table(chain))
    work.chains[phase.name] = chain


def queue_dit_head(work: Work, phase: PhaseInfo, step: Step) -> None:
    """Queue the denoising of all n positions from their conditions at `condition`; masked ones take their result."""
    lane, B, H = work.lane, work.batch, step.halves
    device, buffers, own = lane.device, lane.buffers, lane.buffers.of(phase)
    n, C, W = phase.positions, lane.model.channels, lane.widths[phase.name]
    noisy, given = work.noisy(phase.name), work.noise.address is not None
    chain, held = _Chain(work, phase, step, rows=B * n), work.held(phase)
    made = (0,) * step.diffusion_steps  # of how many halves modulations are made at each index
    if held is not None:
        made = work.request.sampling.evaluations(phase.name).modulated(chain.halves)

    def given_to_modulations(halves: int) -> dict[str, DeviceTensor]:
        return {
            "timestep": buffers.tensor("timestep", 1),
            "condition": buffers.tensor("condition", halves * B, n, W),
        }

    def evaluate(halves: int, made: int) -> None:
        state = {
            "x": buffers.tensor("x", halves * B, n, C),
            "prediction": buffers.tensor("prediction", halves * B, n, C),
        }
        if held is None:
            lane.engines[phase.head].enqueue({**state, **given_to_modulations(halves)})
            return
        if made:
            held.maker.enqueue({**given_to_modulations(made), **held.tensors(made * B)})
        held.head.enqueue({**state, **held.tensors(halves * B)})

    def reverse(halves: int, made: int) -> None:
        if halves:
            evaluate(halves, made)
        chain.settle(halves)
        device.launch(with_noise() if noisy else without())

    def with_noise() -> Launch:
        return launches.dit_step(
            x=buffers.x, timestep=buffers.timestep, tokens=own.tokens, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, prediction=chain.prediction, initial=buffers.initial,
            ranks=own.ranks, origins=buffers.origins, noise=work.noise.address, fault=buffers.fault,
            batch=B, halves=H, N=n, C=C,
        )  # fmt: skip

    def without() -> Launch:
        return launches.dit_solve(
            x=buffers.x, start=buffers.start, timestep=buffers.timestep, tokens=own.tokens, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, prediction=chain.prediction, initial=buffers.initial,
            ranks=own.ranks, fault=buffers.fault, batch=B, halves=H, N=n, C=C,
        )  # fmt: skip

    work.noise.initial(phase, step)
    device.launch(
        launches.start_high(
            x=buffers.x, initial=buffers.initial, timestep=buffers.timestep, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, tokens=own.tokens, ranks=own.ranks, origins=buffers.origins,
            noise=work.noise.address, batch=B, halves=H, N=n, C=C,
        )
    )  # fmt: skip
    for k in range(step.diffusion_steps - 1, -1, -1):
        if noisy:
            work.noise.at(phase, step, k)
        halves = chain.halves[k]
        key = (phase.head, held is None, B, H, noisy, given, halves, made[k], chain.kept)
        lane.replays.run(key, functools.partial(reverse, halves, made[k]))


def queue_mlp_head(work: Work, phase: PhaseInfo, step: Step) -> None:
    """Queue the sampling of the tokens of the revealed positions from their conditions at `head_condition`."""
    lane, B, H, r = work.lane, work.batch, step.halves, step.revealed
    device, buffers, own = lane.device, lane.buffers, lane.buffers.of(phase)
    n, C, W = phase.positions, lane.model.channels, lane.widths[phase.name]
    noisy, given = work.noisy(phase.name), work.noise.address is not None
    chain = _Chain(work, phase, step, rows=B * r)

    def reverse(halves: int) -> None:
        if halves:
            lane.engines[phase.head].enqueue(
                {
                    "x": buffers.tensor("x", halves * B * r, C),
                    "timestep": buffers.tensor("timestep", 1),
                    "condition": buffers.tensor("head_condition", halves * B * r, W),
                    "prediction": buffers.tensor("prediction", halves * B * r, 2 * C),
                }
            )
        chain.settle(halves)
        device.launch(with_noise() if noisy else without())

    def with_noise() -> Launch:
        return launches.mlp_step(
            x=buffers.x, timestep=buffers.timestep, low_tokens=own.tokens, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, prediction=chain.prediction, origins=buffers.origins,
            revealed=buffers.revealed, noise=work.noise.address, fault=buffers.fault,
            batch=B, halves=H, S=n, r=r, C=C,
        )  # fmt: skip

    def without() -> Launch:
        return launches.mlp_solve(
            x=buffers.x, start=buffers.start, timestep=buffers.timestep, low_tokens=own.tokens, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, prediction=chain.prediction, revealed=buffers.revealed,
            fault=buffers.fault, batch=B, halves=H, S=n, r=r, C=C,
        )  # fmt: skip

    work.noise.initial(phase, step)
    device.launch(
        launches.start_low(
            x=buffers.x, timestep=buffers.timestep, state=buffers.state, timesteps=own.timesteps,
            origins=buffers.origins, revealed=buffers.revealed, noise=work.noise.address, batch=B, halves=H, r=r, C=C,
        )
    )  # fmt: skip
    for k in range(step.diffusion_steps - 1, -1, -1):
        if noisy:
            work.noise.at(phase, step, k)
        halves = chain.halves[k]
        lane.replays.run((phase.head, B, H, r, noisy, given, halves, chain.kept), functools.partial(reverse, halves))


class _Chain:
    """Which halves of a step's head run at each index, and what becomes of their predictions before a reverse step.

    Attributes:
        halves: `Evaluations.halves` of the step.
        kept: the order of forecasts where predictions are kept, else None.
        prediction: address of what reverse steps take.
    """

    def __init__(self, work: Work, phase: PhaseInfo, step: Step, rows: int) -> None:
        """rows: of one half of the head."""
        evaluations = work.request.sampling.evaluations(phase.name)
        buffers = work.lane.buffers
        self.halves = evaluations.halves(step.diffusion_steps, step.halves)
        self.kept = evaluations.order if evaluations.leaves_out else None
        self.prediction = buffers.prediction if self.kept is None else buffers.settled
        self._work, self._rows, self._step = work, rows, step
        self._outputs = 2 if phase.kind == "mlp" else 1

    def settle(self, halves: int) -> None:
        """Queue what a reverse step takes as its prediction: made of that of so many halves, or of 0 a forecast."""
        if self.kept is None:
            return
        lane, buffers = self._work.lane, self._work.lane.buffers
        sizes = {
            "rows": self._rows, "halves": self._step.halves, "order": self.kept, "outputs": self._outputs,
            "C": lane.model.channels,
        }  # fmt: skip
        places = {"settled": buffers.settled, "differences": buffers.differences, "state": buffers.state}
        if not halves:
            lane.device.launch(launches.forecast(**places, **sizes))
            return
        lane.device.launch(
            launches.keep_prediction(
                **places, **sizes, gap=buffers.gap, prediction=buffers.prediction, evaluated=halves
            )
        )


def queue_transformer(work: Work, phase: PhaseInfo, step: Step) -> None:
    """Queue index lists and transformer; leave the condition where the phase's head looks for it, and the pivots.

    An MLP head takes the rows that the step reveals, at `head_condition`; a DiT head takes all, at `condition`.
    """
    lane, B, H, r = work.lane, work.batch, step.halves, step.revealed
    takes_rows = phase.kind == "mlp" or phase.leaves_pivots

    def prepare() -> None:
        lane.engines[phase.transformer].enqueue(_tensors(work, phase, step))
        for launch in _taken(work, phase, H, r):
            lane.device.launch(launch)

    lane.replays.run((phase.transformer, B, H, step.masked, r if takes_rows else None), prepare)


def _tensors(work: Work, phase: PhaseInfo, step: Step) -> dict[str, DeviceTensor]:
    """Queue the index lists of a step and return all tensors of the phase's transformer."""
    lane, B, H = work.lane, work.batch, step.halves
    buffers, model = lane.buffers, lane.model
    rows, n, C = H * B, phase.positions, model.channels
    lane.device.launch(
        launches.index_lists(
            visible=buffers.visible, sources=buffers.sources, revealed=buffers.revealed,
            ranks=buffers.of(phase).ranks, state=buffers.state, batch=B, halves=H, context=model.buffer,
            always=phase.always, n=n, positions=model.positions,
        )
    )  # fmt: skip
    tensors = {
        **_shown(lane, rows),
        "visible": buffers.tensor("visible", rows, model.buffer + phase.always + n - step.masked),
        "sources": buffers.tensor("sources", rows, model.buffer + model.positions),
        phase.tokens: DeviceTensor(buffers.of(phase).tokens, (rows, n, C)),
        "condition": buffers.tensor("condition", rows, n, lane.widths[phase.name]),
    }
    if phase.leaves_pivots:
        tensors["pivots"] = buffers.tensor("engine_pivots", rows, n, model.width)
    elif phase.pivot_width:  # visual ones are the low tokens, which lie in both halves too
        source = "low_tokens" if model.pivots == "visual" else "pivots"
        tensors["pivots"] = buffers.tensor(source, rows, phase.always, phase.pivot_width)
    return tensors


def _shown(lane: Lane, rows: int) -> dict[str, DeviceTensor]:
    """The transformers' input that says what rows show."""
    shape = lane.model.context_shape
    name = "class_row" if shape is None else "context"
    return {name: lane.buffers.tensor(name, rows, *(shape or ()))}


def _taken(work: Work, phase: PhaseInfo, H: int, r: int) -> list[Launch]:
    """The launches that take what the step needs, each checking that it is finite."""
    lane, B = work.lane, work.batch
    buffers, n, W, D = lane.buffers, phase.positions, lane.widths[phase.name], lane.model.width
    revealed, state, fault = buffers.revealed, buffers.state, buffers.fault
    if phase.kind == "mlp" and phase.leaves_pivots:
        return [
            launches.reveal_low(
                head_condition=buffers.head_condition, pivots=buffers.pivots, condition=buffers.condition,
                engine_pivots=buffers.engine_pivots, revealed=revealed, state=state, fault=fault, batch=B, halves=H,
                S=n, r=r, W=W, D=D,
            )
        ]  # fmt: skip
    if phase.kind == "mlp":
        return [
            launches.reveal_conditions(
                head_condition=buffers.head_condition, condition=buffers.condition, revealed=revealed, state=state,
                fault=fault, batch=B, halves=H, n=n, r=r, W=W,
            )
        ]  # fmt: skip
    taken = [
        launches.check_finite(
            values=buffers.condition, count=H * B * n * W, state=state, fault=fault,
            component=FAULT_COMPONENTS.index(phase.transformer) + 1,
        )
    ]  # fmt: skip
    if phase.leaves_pivots:
        taken.append(
            launches.reveal_pivots(
                pivots=buffers.pivots, engine_pivots=buffers.engine_pivots, revealed=revealed, state=state,
                fault=fault, batch=B, halves=H, S=n, r=r, D=D,
            )
        )  # fmt: skip
    return taken
