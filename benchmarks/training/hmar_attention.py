"""Times HMAR's next-scale training step by how its attention is done: scale by scale, or with a dense bias.

    python -m benchmarks.training.hmar_attention --config hmar-d16 --batch 1                # on the CPU
    python -m benchmarks.training.hmar_attention --config hmar-d20 --batch 8 --device cuda --precision bf16

A step is forward and backward of the next-scale network over all L cells, as the released benchmark times it, without
the optimiser and the tokenizer. "scales" is what `himar train` runs: on a GPU in half precision one fused attention,
else one per scale. "dense" is the same network with PyTorch's attention and a bias over L × L cells that is -inf
between scales. Times on the CPU are of its threads together, so that other programs do not count. Both give the same
loss, which is checked; they take turns; ratios are of medians and of fastest steps.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from himar.families.hmar.attention import Attend
from himar.families.hmar.config import read_config, resolve
from himar.families.hmar.losses import cell_weights, next_scale_loss
from himar.families.hmar.model import HMAR, randomise
from himar.families.hmar.tokenizer import Quantizer
from himar.training.network import autocast
from himar.training.settings import Precision

WARMUP = 1


class DenseBias(HMAR):
    """The same network, whose attention sees all cells of all scales through a bias."""

    def _each_scale(self, x: Tensor) -> list[Attend]:
        scale = torch.from_numpy(self.config.scales.of_cells()).to(x.device)
        bias = torch.zeros(len(scale), len(scale), device=x.device)
        bias.masked_fill_(scale[:, None] != scale, -torch.inf)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)

        return [attend] * self.config.depth


def measure(config: str, batch: int, device: str, precision: Precision, repeats: int) -> dict[str, Any]:
    """Return each way's seconds per step, and the ratios. Raises ClickException when the ways give other losses."""
    sizes = resolve({**read_config(config), "masked": False}, {}, config)
    torch.manual_seed(0)
    models = {"scales": randomise(HMAR(sizes), 0).to(device)}
    with torch.device("meta"):
        models["dense"] = DenseBias(sizes)
    models["dense"].load_state_dict(models["scales"].state_dict(), assign=True)  # one set of weights for both
    quantizer = Quantizer(sizes.vocab, sizes.latent_channels).to(device)
    codes = torch.randint(sizes.vocab, (batch, sizes.scales.tokens), device=device)
    classes = torch.arange(batch, device=device) % sizes.classes
    weights = torch.from_numpy(cell_weights(sizes.scales, "lognorm")).float().to(device)

    def step(name: str) -> float:
        model = models[name]
        half = autocast(precision, torch.device(device))
        loss = next_scale_loss(model, quantizer, codes, classes, weights, autocast=half)
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.item()

    times: dict[str, list[float]] = {name: [] for name in models}
    losses = {}
    clock = time.perf_counter if device == "cuda" else time.process_time  # the latter leaves out what others run
    for turn in range(-WARMUP, repeats):
        for name in list(models) if turn % 2 else reversed(models):
            start = clock()
            losses[name] = step(name)
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(clock() - start)
    if abs(losses["scales"] - losses["dense"]) > (1e-4 if precision == "fp32" else 1e-2) * abs(losses["dense"]):
        raise click.ClickException(f"the ways differ in their losses, so the times say nothing: {losses}.")
    ratios = {
        "medians": median(times["dense"]) / median(times["scales"]),
        "fastest": min(times["dense"]) / min(times["scales"]),
    }
    return {
        "config": config,
        "batch": batch,
        "device": device,
        "precision": precision,
        "seconds": times,
        "dense/scales": ratios,
    }


@click.command()
@click.option("--config", default="hmar-d16", show_default=True, help="Preset or JSON file.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16", "fp16"]))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=3), help="Timed steps of each way.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the JSON, beside the line.")
def main(out: Path | None, **options: Any) -> None:
    """Time next-scale training steps of a configuration by their attention."""
    if options["device"] == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("this machine has no GPU that PyTorch can use; leave out --device cuda.")
    result = measure(**options)
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    scales, dense = (median(result["seconds"][name]) for name in ("scales", "dense"))
    ratios = result["dense/scales"]
    click.echo(
        f"{result['config']}, batch {result['batch']}: {scales:.3g} s scale by scale, {dense:.3g} s with a dense bias "
        f"(medians): {ratios['medians']:.2f} times, {ratios['fastest']:.2f} of the fastest"
    )


if __name__ == "__main__":
    main()
