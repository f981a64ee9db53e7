"""A phase's transformer on the device, and what a step takes out of it: the head's condition and the pivots."""

from __future__ import annotations

from himar_kernels import Launch, Step, launches
from himar_kernels.cuda_state import FAULT_COMPONENTS

from ..phases import PhaseInfo
from .device import Placed
from .lane import Work, halves_of


def queue_transformer(work: Work, phase: PhaseInfo, step: Step) -> None:
    """Queue index lists and transformer; leave the condition where the phase's head looks for it, and the pivots.

    An MLP head takes the rows that the step reveals, at `head_condition`; a DiT head takes all, at `condition`.
    """
    lane, B, H, r = work.lane, work.batch, halves_of(step), step.revealed
    takes_rows = phase.kind == "mlp" or phase.leaves_pivots

    def prepare() -> None:
        lane.engines[phase.transformer].enqueue(_tensors(work, phase, step))
        for launch in _taken(work, phase, H, r):
            lane.device.launch(launch)

    lane.replays.run((phase.transformer, B, H, step.masked, r if takes_rows else None), prepare)


def _tensors(work: Work, phase: PhaseInfo, step: Step) -> dict[str, Placed]:
    """Queue the index lists of a step and return all tensors of the phase's transformer."""
    lane, B, H = work.lane, work.batch, halves_of(step)
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
        "class_row": buffers.placed("class_row", rows),
        "visible": buffers.placed("visible", rows, model.buffer + phase.always + n - step.masked),
        "sources": buffers.placed("sources", rows, model.buffer + model.positions),
        phase.tokens: Placed(buffers.of(phase).tokens, (rows, n, C)),
        "condition": buffers.placed("condition", rows, n, lane.widths[phase.name]),
    }
    if phase.leaves_pivots:
        tensors["pivots"] = buffers.placed("engine_pivots", rows, n, model.width)
    elif phase.pivot_width:  # visual ones are the low tokens, which lie in both halves too
        source = "low_tokens" if model.pivots == "visual" else "pivots"
        tensors["pivots"] = buffers.placed(source, rows, phase.always, phase.pivot_width)
    return tensors


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
