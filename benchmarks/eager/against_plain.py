"""Compares himar's eager networks with plain compositions of PyTorch's layers: is the reference slower than need be?

    python -m benchmarks.eager.against_plain                              # digits and himar-b, batch 1 and 8
    python -m benchmarks.eager.against_plain --config digits --batch 8 --repeats 50 --markdown table.md

Both sides have the same random weights and inputs and run in turns under inference mode; outputs are compared first
(relative L2 at most 1e-5), and what differs is not timed: exit code 1. "times as fast" is plain by himar, with a 95 %
interval of the median (himar_export.bench.statistics): above 1 himar is the faster one. "operations" are PyTorch's
(ATen's) in one call of himar and of plain. Rows are images twice, as under
guidance; half of a phase's positions are visible; an MLP head takes the positions of an average step; a decoder takes
the images, at most eight.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.eager.plain_networks import PlainDiTHead, PlainMLPHead, PlainTransformer, plain_decode
from himar.families.hi_mar.config import ModelConfig, read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar.vae.autoencoder import AutoencoderKL, VaeConfig
from himar.vae.training import DIGITS_VAE
from himar_export.bench.measurement import share_of_others, spent
from himar_export.bench.timing import Side, calls_in_turn, medians, take_turns, warm_up
from himar_export.bench.verdict import Ratio, ratio
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.files import require_writable_file, write_text
from himar_kernels.shared.options import THREADS, FiniteRange, NamedPath

LIMIT = 1e-5
DECODED = 8
Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    """One component at one batch size: milliseconds of both medians, their ratio, distance of outputs, operations."""

    config: str
    batch: int
    component: str
    himar: float
    plain: float
    ratio: Ratio
    apart: float
    operations: tuple[int, int]


class Operations(TorchDispatchMode):
    """Counts the operations that PyTorch runs, views left out: they take no time of a device, and little of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run one."""
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(call: Call) -> int:
    """Return how many operations a call runs."""
    with Operations() as counted:
        call()
    return counted.count


class DifferError(click.ClickException):
    """The two sides gave other outputs, so neither is timed."""


def require_known_layout(config: str) -> None:
    """Raise InputError for a configuration that the plain networks are not written for, ConfigError for a wrong one."""
    sizes = resolve(read_config(config), {}, config)
    if sizes.single_scale:
        raise InputError(f"{config} has a single scale, but the plain networks have two; leave --config {config} out.")
    layout = (sizes.pivots, sizes.low_head, sizes.high_head)
    if layout != ("condition", "mlp", "dit"):
        raise InputError(
            f"{config} has pivots {layout[0]!r} and heads {layout[1]!r} and {layout[2]!r}, but the plain networks have "
            f"'condition', 'mlp' and 'dit'; leave --config {config} out."
        )


def pairs(config: str, batch: int) -> Iterator[tuple[str, Call, Call]]:
    """Yield each component's name, himar's call and the plain one; calls of one component share their inputs."""
    torch.manual_seed(0)
    sizes = resolve(read_config(config), {}, config)
    model = randomise(HiMAR(sizes), 0).eval().requires_grad_(False)
    weights = model.state_dict()
    yield from _transformers(model, sizes, weights, 2 * batch)

    samples = 2 * batch * max(1, sizes.low_positions // sizes.default_sampling.low_steps)
    head, t = model.mlp_head, torch.tensor([500])
    x, condition = torch.randn(samples, sizes.channels), torch.randn(samples, sizes.mlp_width)
    mlp = PlainMLPHead(head.state_dict(), sizes.mlp_depth)
    yield "mlp_head", lambda: head.denoise(x, t, condition), lambda: mlp(x, t, condition)

    dit, rows = model.dit_head, (2 * batch, sizes.high_positions)
    state, context = torch.randn(*rows, sizes.channels), torch.randn(*rows, sizes.dit_width)
    plain = PlainDiTHead(dit.state_dict(), sizes.dit_depth, sizes.dit_heads)
    yield "dit_head", lambda: dit.denoise(state, t, context), lambda: plain(state, t, context)

    vae = AutoencoderKL(DIGITS_VAE.config if config == "digits" else VaeConfig()).eval().requires_grad_(False)
    latent = torch.randn(min(batch, DECODED), sizes.channels, sizes.grid, sizes.grid)
    parameters = vae.state_dict()
    yield "vae_decoder", lambda: vae.decode(latent), lambda: plain_decode(parameters, latent)


def _transformers(
    model: HiMAR, sizes: ModelConfig, weights: Mapping[str, Tensor], rows: int
) -> Iterator[tuple[str, Call, Call]]:
    depths, S, N = (sizes.enc_depth, sizes.dec_depth), sizes.low_positions, sizes.high_positions
    classes = torch.arange(rows) % (sizes.classes + 1)
    low_known, known = (torch.stack([torch.randperm(n) < n // 2 for _ in range(rows)]) for n in (S, N))
    low, tokens = torch.randn(rows, S, sizes.channels), torch.randn(rows, N, sizes.channels)
    pivots, every = torch.randn(rows, S, sizes.width), torch.ones(rows, S, dtype=torch.bool)
    first = PlainTransformer(weights, depths, sizes.heads, sizes.buffer, 0)
    yield (
        "transformer_low",
        lambda: model.transformer_low(classes, low, low_known),
        lambda: first(classes, low, None, low_known),
    )
    second = PlainTransformer(weights, depths, sizes.heads, sizes.buffer, 1)
    yield (
        "transformer_high",
        lambda: model.transformer_high(classes, pivots, tokens, known),
        lambda: second(classes, pivots, tokens, torch.cat([every, known], dim=1)),
    )


@torch.inference_mode()
def measure(config: str, batch: int, repeats: int, warm_limit: float) -> Iterator[Row]:
    """Compare and time every component. Raises DifferError."""
    for name, ours, plain in pairs(config, batch):
        found, expected = ours(), plain()
        apart = float((found - expected).norm() / expected.norm())
        if not apart <= LIMIT:
            raise DifferError(f"{config} {name}: outputs are {apart:.1e} apart, more than {LIMIT:.0e}; not timed.")
        sides = [Side("himar", ours, dict), Side("plain", plain, dict)]
        calls = {side.name: calls_in_turn(warm_up(side.run, warm_limit)) for side in sides}
        before = spent()
        rounds = take_turns(sides, repeats, calls, lambda *_: None)
        others = share_of_others(before, spent())
        seconds = {name: medians(each) for name, each in rounds.items()}
        middle = (1e3 * median(seconds[side.name]) for side in sides)
        faster = ratio(seconds["plain"], seconds["himar"], others)
        yield Row(config, batch, name, *middle, faster, apart, (operations(ours), operations(plain)))


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "configs", multiple=True, default=("digits", "himar-b"), show_default=True)
@click.option("--batch", "batches", multiple=True, default=(1, 8), show_default=True, type=click.IntRange(1, 64))
@click.option("--repeats", default=12, show_default=True, type=click.IntRange(6, 1000), help="Of each side, in turns.")
@click.option("--warm-up", default=2.0, show_default=True, type=FiniteRange(min=0),
              help="Maximum seconds for a side to settle.")  # fmt: skip
@click.option("--threads", type=THREADS, help="CPU threads; PyTorch's choice if not given.")
@click.option("--markdown", type=NamedPath(dir_okay=False), help="File for the table.")
def main(
    configs: tuple[str, ...],
    batches: tuple[int, ...],
    repeats: int,
    warm_up: float,
    threads: int | None,
    markdown: Path | None,
) -> None:
    """Print a table; one line per configuration, batch size and component."""
    for config in configs:
        require_known_layout(config)
    if markdown is not None:
        require_writable_file(markdown)
    if threads is not None:
        torch.set_num_threads(threads)
    lines = [
        "| config | batch | component | himar ms | plain ms | himar is … times as fast | operations | apart |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for config in configs:
        for batch in batches:
            for row in measure(config, batch, repeats, warm_up):
                lines.append(
                    f"| {config} | {batch} | {row.component} | {row.himar:.2f} | {row.plain:.2f} | "
                    f"{row.ratio.value:.2f} ({row.ratio.low:.2f} … {row.ratio.high:.2f}) | "
                    f"{row.operations[0]} and {row.operations[1]} | {row.apart:.0e} |"
                )
                click.echo(lines[-1])
    if markdown is not None:
        write_text(markdown, "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(run_cli(main))
