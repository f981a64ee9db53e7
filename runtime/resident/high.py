"""Phase high on the device: transformer → DiT head and reverse steps over all positions → tokens."""

from __future__ import annotations

from himar_kernels import Step, launches
from himar_kernels.cuda_state import FAULT_COMPONENTS

from .lane import Work, condition_width, halves_of


def queue_high_step(work: Work, step: Step) -> None:
    """Queue a step: denoise all N positions under the pivots; known ones follow their tokens."""
    lane, B, H = work.lane, work.batch, halves_of(step)
    device, engines, buffers, model = lane.device, lane.engines, lane.buffers, lane.model
    S, N, C, W = model.low_positions, model.high_positions, model.channels, condition_width(engines["dit_head"])
    given = work.noise.address is not None

    def prepare() -> None:
        indices = work.index_inputs(step, buffers.high_ranks, always=S, n=N)
        engines["transformer_high"].enqueue(
            {
                **indices,
                "pivots": buffers.placed("pivots", H * B, S, model.width),
                "tokens": buffers.placed("tokens", H * B, N, C),
                "condition": buffers.placed("high_condition", H * B, N, W),
            }
        )
        device.launch(
            launches.check_finite(
                values=buffers.high_condition, count=H * B * N * W, state=buffers.state, fault=buffers.fault,
                component=FAULT_COMPONENTS.index("transformer_high") + 1,
            )
        )  # fmt: skip

    def reverse() -> None:
        engines["dit_head"].enqueue(
            {
                "x": buffers.placed("dit_x", H * B, N, C),
                "timestep": buffers.placed("timestep", 1),
                "condition": buffers.placed("high_condition", H * B, N, W),
                "prediction": buffers.placed("dit_prediction", H * B, N, C),
            }
        )
        device.launch(
            launches.dit_step(
                x=buffers.dit_x, timestep=buffers.timestep, tokens=buffers.tokens, state=buffers.state,
                timesteps=buffers.high_timesteps, chain=buffers.high_chain, prediction=buffers.dit_prediction,
                initial=buffers.initial, ranks=buffers.high_ranks, images=buffers.images, noise=work.noise.address,
                fault=buffers.fault, batch=B, halves=H, N=N, C=C,
            )
        )  # fmt: skip

    lane.replays.run(("transformer_high", B, H, step.masked), prepare)
    work.noise.initial(step)
    device.launch(
        launches.start_high(
            x=buffers.dit_x, initial=buffers.initial, timestep=buffers.timestep, state=buffers.state,
            timesteps=buffers.high_timesteps, chain=buffers.high_chain, tokens=buffers.tokens,
            ranks=buffers.high_ranks, images=buffers.images, noise=work.noise.address,
            batch=B, halves=H, N=N, C=C,
        )
    )  # fmt: skip
    for k in range(len(work.high_chain) - 1, -1, -1):
        work.noise.at(step, k)
        lane.replays.run(("dit_head", B, H, given), reverse)
