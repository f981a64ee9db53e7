"""A DiT head on the device: its reverse steps over all positions of a phase, known ones following their tokens."""

from __future__ import annotations

from himar_kernels import Launch, Step, launches

from ..phases import PhaseInfo
from .lane import Work, halves_of


def queue_dit_head(work: Work, phase: PhaseInfo, step: Step) -> None:
    """Queue the denoising of all n positions from their conditions at `condition`; masked ones take their result."""
    lane, B, H = work.lane, work.batch, halves_of(step)
    device, buffers, own = lane.device, lane.buffers, lane.buffers.of(phase)
    n, C, W = phase.positions, lane.model.channels, lane.widths[phase.name]
    noisy, given = work.noisy(phase.name), work.noise.address is not None

    def reverse() -> None:
        lane.engines[phase.head].enqueue(
            {
                "x": buffers.placed("x", H * B, n, C),
                "timestep": buffers.placed("timestep", 1),
                "condition": buffers.placed("condition", H * B, n, W),
                "prediction": buffers.placed("prediction", H * B, n, C),
            }
        )
        device.launch(with_noise() if noisy else without())

    def with_noise() -> Launch:
        return launches.dit_step(
            x=buffers.x, timestep=buffers.timestep, tokens=own.tokens, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, prediction=buffers.prediction, initial=buffers.initial,
            ranks=own.ranks, images=buffers.images, noise=work.noise.address, fault=buffers.fault,
            batch=B, halves=H, N=n, C=C,
        )  # fmt: skip

    def without() -> Launch:
        return launches.dit_solve(
            x=buffers.x, start=buffers.start, timestep=buffers.timestep, tokens=own.tokens, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, prediction=buffers.prediction, initial=buffers.initial,
            ranks=own.ranks, fault=buffers.fault, batch=B, halves=H, N=n, C=C,
        )  # fmt: skip

    work.noise.initial(phase, step)
    device.launch(
        launches.start_high(
            x=buffers.x, initial=buffers.initial, timestep=buffers.timestep, state=buffers.state,
            timesteps=own.timesteps, chain=own.chain, tokens=own.tokens, ranks=own.ranks, images=buffers.images,
            noise=work.noise.address, batch=B, halves=H, N=n, C=C,
        )
    )  # fmt: skip
    for k in range(len(work.chains[phase.name]) - 1, -1, -1):
        if noisy:
            work.noise.at(phase, step, k)
        lane.replays.run((phase.head, B, H, noisy, given), reverse)
