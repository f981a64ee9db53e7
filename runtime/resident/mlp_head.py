"""An MLP head on the device: its reverse steps over the positions that a step reveals, in either phase."""

from __future__ import annotations

from himar_kernels import Launch, Step, launches

from ..phases import PhaseInfo
from .lane import Work, halves_of


def queue_mlp_head(work: Work, phase: PhaseInfo, step: Step) -> None:
    """Queue the sampling of the tokens of the revealed positions from their conditions at `head_condition`."""
    lane, B, H, r = work.lane, work.batch, halves_of(step), step.revealed
    device, buffers, own = lane.device, lane.buffers, lane.buffers.of(phase)
    n, C, W = phase.positions, lane.model.channels, lane.widths[phase.name]
    noisy, given = work.noisy(phase.name), work.noise.address is not None

    def reverse() -> None:
        lane.engines[phase.head].enqueue(
            {
                "x": buffers.placed("x", H * B * r, C),
                "timestep": buffers.placed("timestep", 1),
                "condition": buffers.placed("head_condition", H * B * r, W),
                "prediction": buffers.placed("prediction", H * B * r, 2 * C),
            }
        )
        device.launch(with_noise() if noisy else without())

    def with_noise() -> Launch:
        return launches.mlp_step(
            x=buffers.x, timestep=buffers.timestep, low_tokens=own.tokens, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, prediction=buffers.prediction, images=buffers.images,
            revealed=buffers.revealed, noise=work.noise.address, fault=buffers.fault,
            batch=B, halves=H, S=n, r=r, C=C,
        )  # fmt: skip

    def without() -> Launch:
        return launches.mlp_solve(
            x=buffers.x, start=buffers.start, timestep=buffers.timestep, low_tokens=own.tokens, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, prediction=buffers.prediction, revealed=buffers.revealed,
            fault=buffers.fault, batch=B, halves=H, S=n, r=r, C=C,
        )  # fmt: skip

    work.noise.initial(phase, step)
    device.launch(
        launches.start_low(
            x=buffers.x, timestep=buffers.timestep, state=buffers.state, timesteps=own.timesteps,
            images=buffers.images, revealed=buffers.revealed, noise=work.noise.address, batch=B, halves=H, r=r, C=C,
        )
    )  # fmt: skip
    for k in range(len(work.chains[phase.name]) - 1, -1, -1):
        if noisy:
            work.noise.at(phase, step, k)
        lane.replays.run((phase.head, B, H, r, noisy, given), reverse)
