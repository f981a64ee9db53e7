"""Measures how far a DiT head's modulations drift between the evaluations of a chain, on the shipped digits.

Run from the repository; a minute of one core:

    python -m benchmarks.studies.modulation_drift
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.studies.measure import WEIGHTS, even_labels
from benchmarks.studies.modulations import CHAINS
from benchmarks.studies.record import IMAGES
from benchmarks.studies.report import row
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.dit_head import DiTBlock, DiTHead
from himar.families.hi_mar.sampler import two_phase
from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar.solvers import build_chain
from himar_kernels.shared.console import run_cli

GAPS = (1, 2, 4, 8, 16)
"""Indices of the chain between two evaluations: 8 with forecasts of interval 8, 16 where those are held over two."""


@click.command(epilog="Example: python -m benchmarks.studies.modulation_drift --images 20")
@click.option("--images", default=10, show_default=True, type=IMAGES, help="Images whose conditions are taken.")
def main(images: int) -> None:
    """Print the drift of the shipped digits' modulations over the released models' chain of 250 steps."""
    model = load_checkpoint(WEIGHTS / "digits.safetensors", "digits")
    head = model.high_head
    assert isinstance(head, DiTHead)
    conditions: list[Tensor] = []
    handle = head.c_embedder.register_forward_hook(lambda _module, _inputs, output: conditions.append(output))
    two_phase(model, even_labels(images), draws=PhiloxDraws(0))
    handle.remove()
    timesteps = build_chain("ddpm", CHAINS["high_diffusion_steps"]).timesteps
    found = drift(head, torch.cat([each.flatten(0, 1) for each in conditions]), timesteps, GAPS)
    third = -(-len(timesteps) // 3)
    click.echo("Mean |m_i − m_(i−g)|₁ / |m_(i−g)|₁, i counted from the top of the chain.\n")
    click.echo(row(["gap g", "whole chain", "first third", "middle", "last third", "last 16", "largest"]))
    click.echo(row(["---:"] * 7))
    for gap, values in found.items():
        parts = [values, values[: third - gap], values[third - gap : -third], values[-third:], values[-16:]]
        click.echo(row([str(gap), *(f"{part.mean():.1%}" for part in parts), f"{values.max():.1%}"]))


@torch.inference_mode()
def drift(
    head: DiTHead, condition: Tensor, timesteps: NDArray[np.int64], gaps: Sequence[int]
) -> dict[int, NDArray[np.float64]]:
    """Return, for every gap g, |m_i − m_(i−g)|₁ / |m_(i−g)|₁ at the evaluations i = g … n-1 of a chain.

    Args:
        condition: (M, W), embedded; m_i are the modulations of all its rows by all blocks and the last layer.
        timesteps: (n,), ascending as in a chain; evaluations go down.
    """
    down = torch.from_numpy(timesteps[::-1].copy())
    kept: list[Tensor] = []
    found: dict[int, list[float]] = {gap: [] for gap in gaps}
    for timestep in down:
        kept = [*kept[-max(gaps) :], modulations(head, condition, timestep[None])]
        for gap in gaps:
            if len(kept) > gap:
                before = kept[-1 - gap]
                found[gap].append(float((kept[-1] - before).abs().sum() / before.abs().sum()))
    return {gap: np.array(values) for gap, values in found.items()}


def modulations(head: DiTHead, condition: Tensor, timestep: Tensor) -> Tensor:
    """Return all modulations (M, (6·depth + 2)·W) of embedded conditions (M, W) at one timestep (1,)."""
    active = torch.nn.functional.silu(head.t_embedder(timestep) + condition)
    blocks = [block for block in head.blocks if isinstance(block, DiTBlock)]
    layers = [block.adaLN_modulation[1] for block in blocks] + [head.final_layer.adaLN_modulation[1]]
    return torch.cat([layer(active) for layer in layers], dim=-1)


if __name__ == "__main__":
    sys.exit(run_cli(main))
