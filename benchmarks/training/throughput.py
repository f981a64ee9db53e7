"""Measures images per second of a training step, with and without what the loop hoists, and model-FLOPs utilisation.

    python -m benchmarks.training.throughput --config himar-b --batch 2                     # on the CPU
    python -m benchmarks.training.throughput --batch 64 --batch 256 --device cuda --precision bf16 --compile

A step is loss, backward, AdamW and the moving average, with dropout, on one draw of masks, timesteps and noise: every
step does the same work, that of the median among 31 draws. "hoisted" is what `himar train` runs. "plain" is the same
loss as first written down: the MLP head runs at every low position and the loss is masked afterwards, and the DiT head
runs a second time, without gradients, as general diffusion losses do that take their bound term from a frozen output.
Both give the same loss, which is checked. They take turns, first one then the other in front, so that what else a
machine does slows both alike; the ratios are of medians and of fastest steps.

Utilisation is the operations that the model needs (himar_export.cost.training: matmuls and attention, forward and
backward) per second, over the rate of a large square matmul measured on the same device just before. With --recompute,
`executed` counts the recomputed blocks too.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.training.plain_step import plain_extra_flops, plain_loss
from himar.families.hi_mar.config import ModelConfig, read_config, resolve
from himar.families.hi_mar.loss_draws import BatchDraws, LossSettings, draw_batch
from himar.families.hi_mar.model import HiMAR, randomise
from himar.families.hi_mar.training import LossNetwork, losses_from, parameter_groups, repeated_blocks
from himar.training.network import wrap
from himar.training.optimise import Optimiser, Schedule
from himar.training.processes import Processes
from himar.training.settings import Execution, Precision
from himar.training.trainer import update_average
from himar_export.bench.environment import matmul_rate
from himar_export.cost.training import TrainingCost
from himar_export.families.hi_mar.cost.training import training_cost
from himar_kernels.families.hi_mar import Phase

DRAWS, DROPOUT, WARMUP = 31, 0.1, 2


def measure(
    config: str,
    batch: int,
    device: str,
    precision: Precision,
    repeats: int,
    *,
    recompute: bool = False,
    compiled: bool = False,
    peak: float | None = None,
) -> dict[str, Any]:
    """Return each way's seconds per step and images per second, and utilisation where the matrix peak is given.

    The plain way is timed beside ours in float32 and for the released model's form alone. Raises ClickException when
    the ways give other losses.
    """
    torch.manual_seed(0)
    sizes = resolve(read_config(config), {}, config)
    model = randomise(HiMAR(sizes, DROPOUT), 0).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    draws, cost = typical_draws(sizes, batch)
    draws = draws.to(torch.device(device))
    tokens = torch.randn(batch, sizes.high_positions, sizes.channels, device=device)
    low_tokens = torch.randn(batch, sizes.low_positions, sizes.channels, device=device)

    execution = Execution(device, recompute=recompute, compile=compiled)
    model.recompute = recompute
    network = wrap(LossNetwork(model, precision), repeated_blocks(model), (), execution, Processes())
    ways: dict[str, Callable[[], Tensor]] = {
        "hoisted": lambda: losses_from(network(tokens, low_tokens, draws), model).total
    }
    released = (sizes.pivots, *sizes.head_kinds) == ("condition", "mlp", "dit")
    if released and precision == "fp32" and not (recompute or compiled):
        ways["plain"] = lambda: plain_loss(model, tokens, low_tokens, draws)
        _require_same(model, ways)

    model.train()
    optimiser = Optimiser(parameter_groups(model, 0.02), Schedule(1, 1e-6))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = _take_turns(ways, optimiser, model, average, device, repeats)
    result: dict[str, Any] = {"batch": batch, "masked": masked_counts(draws)}
    flops = {"hoisted": cost.model_flops, "plain": cost.model_flops + plain_extra_flops(sizes, draws)}
    for name, seconds in times.items():
        result[name] = {
            "flops": flops[name],
            "seconds": seconds,
            "images_per_second": batch / median(seconds),
            "most_images_per_second": batch / min(seconds),
        }
    if "plain" in times:
        result["ratio"] = {
            "medians": median(times["plain"]) / median(times["hoisted"]),
            "fastest": min(times["plain"]) / min(times["hoisted"]),
        }
    if peak is not None:
        reached = 1 / median(times["hoisted"]) / peak
        result["peak_flops_per_second"] = peak
        result["utilisation"] = cost.model_flops * reached
        result["executed"] = cost.executed_flops(recompute) * reached
    if device == "cuda":
        result["bytes_used"] = torch.cuda.max_memory_allocated()
    return result


def measure_all(
    config: str, batches: Sequence[int], device: str, precision: Precision, repeats: int, **options: Any
) -> dict[str, Any]:
    """Return `measure` for each batch size beside what was asked; one that does not fit in memory has an error."""
    peak = matmul_rate(device, precision, 8192 if device == "cuda" else 1024)["flops_per_second"]
    results: list[dict[str, Any]] = []
    for batch in batches:
        try:
            results.append(measure(config, batch, device, precision, repeats, peak=peak, **options))
        except torch.OutOfMemoryError as error:
            results.append({"batch": batch, "error": str(error).splitlines()[0]})
        if device == "cuda":
            torch.compiler.reset()
            torch.cuda.empty_cache()
    return {"config": config, "device": device, "precision": precision, **options, "batches": results}


def typical_draws(config: ModelConfig, batch: int) -> tuple[BatchDraws, TrainingCost]:
    """Return the draw whose step costs the median of `DRAWS`, and its cost: mask ratios change it from step to step."""
    labels = torch.arange(batch) % config.classes

    def drawn(seed: int) -> tuple[BatchDraws, TrainingCost]:
        draws = draw_batch(config, labels, LossSettings(), torch.Generator().manual_seed(seed))
        return draws, training_cost(config, batch, masked_counts(draws))

    costs = {seed: drawn(seed)[1].forward_flops for seed in range(DRAWS)}
    return drawn(sorted(costs, key=costs.__getitem__)[DRAWS // 2])


def masked_counts(draws: BatchDraws) -> dict[Phase, int]:
    """Return how many positions each phase hides."""
    counts: dict[Phase, int] = {"high": int(draws.high.masked[0].sum())}
    return counts if draws.low is None else {"low": int(draws.low.masked[0].sum()), **counts}


def _require_same(model: HiMAR, ways: dict[str, Callable[[], Tensor]]) -> None:
    model.eval()
    with torch.no_grad():
        losses = {name: way().item() for name, way in ways.items()}
    if max(losses.values()) - min(losses.values()) > 1e-4 * abs(losses["hoisted"]):
        raise click.ClickException(f"the ways differ in their losses, so none was timed: {losses}.")


def _take_turns(
    ways: dict[str, Callable[[], Tensor]],
    optimiser: Optimiser,
    model: HiMAR,
    average: HiMAR,
    device: str,
    repeats: int,
) -> dict[str, list[float]]:
    """Return each way's seconds, every repetition; the first steps, which allocate and compile, are left out."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-WARMUP, repeats):
        for name in list(ways) if turn % 2 else reversed(ways):
            start = time.perf_counter()
            optimiser.step(0, ways[name]())
            update_average(average, model, 0.9999)
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def _lines(result: dict[str, Any]) -> list[str]:
    """Say one batch size's figures in words."""
    if "error" in result:
        return [f"batch {result['batch']}: {result['error']}"]
    lines = []
    for name in [name for name in ("hoisted", "plain") if name in result]:
        rates = (result[name]["images_per_second"], result[name]["most_images_per_second"])
        lines.append(
            f"batch {result['batch']}, {name}: {rates[0]:.4g} images/s (median), {rates[1]:.4g} (fastest step), "
            f"{result[name]['flops'] / 1e12:.3g} TFLOP a step"
        )
    if "ratio" in result:
        ratio = result["ratio"]
        lines.append(f"  hoisted is {ratio['medians']:.2f} times plain (medians), {ratio['fastest']:.2f} (fastest)")
    peak = result["peak_flops_per_second"] / 1e12
    executed = f", {result['executed']:.1%} executed" if result["executed"] != result["utilisation"] else ""
    lines.append(f"  model-FLOPs utilisation {result['utilisation']:.1%}{executed} of a measured {peak:.3g} TFLOP/s")
    return lines


@click.command()
@click.option("--config", default="himar-b", show_default=True, help="Preset or JSON file.")
@click.option("--batch", "batches", multiple=True, default=(2,), show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(min=3), help="Timed steps of each way.")
@click.option("--recompute", is_flag=True, help="Recompute the transformer blocks in the backward pass.")
@click.option("--compile", "compiled", is_flag=True, help="Blocks through torch.compile.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the JSON, beside the lines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def main(batches: tuple[int, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """Time training steps of a configuration."""
    if options["device"] == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("this machine has no GPU that PyTorch can use; leave out --device cuda.")
    result = measure_all(options.pop("config"), batches, **options)
    text = json.dumps(result, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    click.echo(text if as_json else "\n".join(line for each in result["batches"] for line in _lines(each)))


if __name__ == "__main__":
    main()
