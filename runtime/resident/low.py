"""Phase low on the device: transformer → revealed rows → MLP head and reverse steps → low tokens and pivots."""

from __future__ import annotations

from himar_kernels import Step, launches

from .lane import Work, condition_width, halves_of


def queue_low_step(work: Work, step: Step) -> None:
    """Queue a step: sample the tokens of its revealed positions and capture their pivots."""
    lane, B, H, r = work.lane, work.batch, halves_of(step), step.revealed
    device, engines, buffers, model = lane.device, lane.engines, lane.buffers, lane.model
    S, C, D, W = model.low_positions, model.channels, model.width, condition_width(engines["mlp_head"])
    given = work.noise.address is not None

    def prepare() -> None:
        indices = work.index_inputs(step, buffers.low_ranks, always=0, n=S)
        engines["transformer_low"].enqueue(
            {
                **indices,
                "low_tokens": buffers.placed("low_tokens", H * B, S, C),
                "pivots": buffers.placed("engine_pivots", H * B, S, D),
                "condition": buffers.placed("low_condition", H * B, S, W),
            }
        )
        device.launch(
            launches.reveal_low(
                head_condition=buffers.head_condition, pivots=buffers.pivots, condition=buffers.low_condition,
                engine_pivots=buffers.engine_pivots, revealed=buffers.revealed, state=buffers.state,
                fault=buffers.fault, batch=B, halves=H, S=S, r=r, W=W, D=D,
            )
        )  # fmt: skip

    def reverse() -> None:
        engines["mlp_head"].enqueue(
            {
                "x": buffers.placed("mlp_x", H * B * r, C),
                "timestep": buffers.placed("timestep", 1),
                "condition": buffers.placed("head_condition", H * B * r, W),
                "prediction": buffers.placed("mlp_prediction", H * B * r, 2 * C),
            }
        )
        device.launch(
            launches.mlp_step(
                x=buffers.mlp_x, timestep=buffers.timestep, low_tokens=buffers.low_tokens, state=buffers.state,
                timesteps=buffers.low_timesteps, chain=buffers.low_chain, prediction=buffers.mlp_prediction,
                images=buffers.images, revealed=buffers.revealed, noise=work.noise.address, fault=buffers.fault,
                batch=B, halves=H, S=S, r=r, C=C,
            )
        )  # fmt: skip

    lane.replays.run(("transformer_low", B, H, step.masked, r), prepare)
    work.noise.initial(step)
    device.launch(
        launches.start_low(
            x=buffers.mlp_x, timestep=buffers.timestep, state=buffers.state, timesteps=buffers.low_timesteps,
            images=buffers.images, revealed=buffers.revealed, noise=work.noise.address, batch=B, halves=H, r=r, C=C,
        )
    )  # fmt: skip
    for k in range(len(work.low_chain) - 1, -1, -1):
        work.noise.at(step, k)
        lane.replays.run(("mlp_head", B, H, r, given), reverse)
