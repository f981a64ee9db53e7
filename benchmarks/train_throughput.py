"""Images per second of a training step, with and without what the loop hoists, and model-FLOPs utilisation.

    python benchmarks/train_throughput.py --config himar-b --batch 2                          # on the CPU
    python benchmarks/train_throughput.py --config himar-b --batch 128 --device cuda --precision bf16 --compile

A step is loss, backward, AdamW and the moving average, on one fixed draw of masks, timesteps and noise: every step
does the same work. "hoisted" is what `himar train` runs. "plain" is the same loss as first written down: the MLP head
runs at every low position and the loss is masked afterwards, and the DiT head runs a second time, without gradients,
as general diffusion losses do that take their bound term from a frozen output. Both give the same loss, which is
checked.

Utilisation is the floating-point operations of products and attention, forward and backward as the model needs them
(recomputed ones do not count), per second, over the rate of a large square product on the same device.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from report_peaks import product_rates

from himar.config import read_config, resolve
from himar.head_losses import add_noise, dit_head_loss, mlp_head_loss
from himar.loss_draws import BatchDraws, LossSettings, draw_batch
from himar.losses import HIGH_WEIGHT, LOW_WEIGHT
from himar.model import HiMAR, randomise
from himar.optimise import Optimiser, Schedule
from himar.train_network import losses_from, wrap
from himar.train_processes import Processes
from himar.train_settings import Execution, Precision
from himar.trainer import parameter_groups, update_average


def plain_loss(model: HiMAR, tokens: Tensor, low_tokens: Tensor, draws: BatchDraws) -> Tensor:
    """The total loss without hoists, for the released model's form and one timestep per token."""
    low = draws.low
    assert low is not None
    positions = low_tokens.shape[1]
    z = model.transformer_low(low.class_row, low_tokens, ~low.masked)[:, :positions]
    # Timesteps and noise of masked positions are the step's; visible ones get any and are thrown away.
    t = torch.zeros(low.masked.shape, dtype=torch.long, device=tokens.device)
    noise = torch.zeros_like(low_tokens)
    t[low.masked], noise[low.masked] = low.t[0].flatten(), low.noise[0].flatten(0, 1)
    target, rows, noise_rows = low_tokens.flatten(0, 1), t.flatten(), noise.flatten(0, 1)
    prediction = model.mlp_head(add_noise(target, noise_rows, rows), rows, z.flatten(0, 1))
    mse, vb = mlp_head_loss(prediction.float(), target, noise_rows, rows)
    mask = low.masked.flatten()
    low_loss = ((mse + vb) * mask).sum() / mask.sum()

    without = ~low.masked | draws.hidden[:, None]
    pivots = model.cond_z_proj(z.detach())
    guide = torch.where(without[..., None], model.cond_proj(model.cond_tokens), pivots)
    z = model.run_high(draws.high.class_row, guide, tokens, ~draws.high.masked)[:, positions:]
    t, noise = draws.high.t[0], draws.high.noise[0]
    noised = add_noise(tokens, noise, t)
    prediction = model.dit_head.denoise(noised, t, model.dit_head.condition(z))
    with torch.no_grad():
        model.dit_head.denoise(noised, t, model.dit_head.condition(z))
    high_loss = dit_head_loss(prediction.float(), noise, draws.high.masked).mean()
    return LOW_WEIGHT * low_loss + HIGH_WEIGHT * high_loss


def measure(
    config: str, batch: int, device: str, precision: Precision, steps: int, execution: Execution, plain: bool
) -> dict[str, Any]:
    """Return images per second, and utilisation where the device's peak is measured, of each way to do a step."""
    torch.manual_seed(0)
    sizes = resolve(read_config(config), {}, config)
    model = randomise(HiMAR(sizes), 0).to(device).train()
    average = randomise(HiMAR(sizes), 0).to(device).requires_grad_(False)
    draws = draw_batch(sizes, torch.arange(batch) % sizes.classes, LossSettings(), torch.Generator().manual_seed(0))
    draws = draws.to(torch.device(device))
    tokens = torch.randn(batch, sizes.high_positions, sizes.channels, device=device)
    low_tokens = torch.randn(batch, sizes.low_positions, sizes.channels, device=device)
    network = wrap(model, precision, Execution(device), Processes())
    ways: dict[str, Callable[[], Tensor]] = {"hoisted": lambda: _loss(network, model, tokens, low_tokens, draws)}
    if plain:
        ways["plain"] = lambda: plain_loss(model, tokens, low_tokens, draws)
    # Counted before blocks are compiled or recompute, which would hide or double some.
    counted = {name: _operations(way) for name, way in ways.items()}
    losses = [loss for _, loss in counted.values()]
    if max(losses) - min(losses) > 1e-4 * abs(losses[0]):
        raise click.ClickException(f"the ways give other losses: {losses}.")

    network = wrap(model, precision, execution, Processes())
    optimiser = Optimiser(parameter_groups(model, 0.02), Schedule(1, 1e-6))
    seconds = _seconds_per_step(ways, optimiser, model, average, device, steps)
    peak = product_rates(device)[precision]["flops_per_second"]
    result: dict[str, Any] = {
        name: {"flops": counted[name][0], "seconds_per_step": each, "images_per_second": batch / each}
        for name, each in seconds.items()
    }
    return {
        **result,
        "peak_flops_per_second": peak,
        "utilisation": counted["hoisted"][0] / seconds["hoisted"] / peak,
    }


def _operations(way: Callable[[], Tensor]) -> tuple[int, float]:
    """Return the operations of a loss and its gradients, and the loss."""
    # Attention in its plain form is counted on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = way()
        loss.backward()
    return counter.get_total_flops(), loss.item()


def _loss(network: torch.nn.Module, model: HiMAR, tokens: Tensor, low_tokens: Tensor, draws: BatchDraws) -> Tensor:
    return losses_from(network(tokens, low_tokens, draws), model).total


def _seconds_per_step(
    ways: dict[str, Callable[[], Tensor]],
    optimiser: Optimiser,
    model: HiMAR,
    average: HiMAR,
    device: str,
    steps: int,
) -> dict[str, float]:
    """Return each way's median; they take turns, so that a machine's other work slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(steps + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            optimiser.step(0, way())
            update_average(average, model, 0.9999)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if step:  # The first one allocates and compiles.
                times[name].append(time.perf_counter() - start)
    return {name: median(each) for name, each in times.items()}


@click.command()
@click.option("--config", default="himar-b", show_default=True)
@click.option("--batch", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option(
    "--steps", default=5, show_default=True, type=click.IntRange(min=1), help="Timed steps; the median counts."
)
@click.option("--recompute", is_flag=True)
@click.option("--compile", "compiled", is_flag=True)
def main(
    config: str, batch: int, device: str, precision: Precision, steps: int, recompute: bool, compiled: bool
) -> None:
    """Print the figures as JSON."""
    execution = Execution(device, recompute=recompute, compile=compiled)
    plain = precision == "fp32" and not (recompute or compiled)
    result = measure(config, batch, device, precision, steps, execution, plain)
    click.echo(
        json.dumps({"config": config, "batch": batch, "device": device, "precision": precision, **result}, indent=1)
    )


if __name__ == "__main__":
    main()
