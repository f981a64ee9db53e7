"""Defines `himar drift`: how far forecasts carry a checkpoint's chains, and which settings that suggests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from himar_kernels.families.sampling_options import sampling_options
from himar_kernels.shared.console import require_extra
from himar_kernels.shared.options import (
    SEED,
    FamilyCommand,
    FiniteRange,
    NamedPath,
    chosen_labels,
    device_option,
    label_option,
)

from .options import config_option, weights_option
from .progress import image_progress

if TYPE_CHECKING:
    from ..drift import Candidate, DriftReport, PhaseDrift

_PATH = NamedPath()
_IMAGES = 8


@click.command(
    cls=FamilyCommand, epilog="Example: himar drift model.safetensors --config himar-b --sampling paper --device cuda"
)
@click.argument("checkpoint", type=_PATH)
@click.option("--config", callback=config_option, help="Preset or JSON file; not needed for files that himar wrote.")
@weights_option
@click.option(
    "--labels", callback=label_option, help=f"Classes, one image each; {_IMAGES} spread over all if not given."
)
@click.option("--contexts", type=_PATH, help="Model from text: .npz with the texts' contexts (B, K, W), an image each.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the images.")
@click.option("--limit", type=FiniteRange(min=0, min_open=True),
              help="Largest drift to propose; what the digits were seen to bear if not given.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@sampling_options
@click.option("--json", "as_json", is_flag=True, help="Print every candidate and the proposal as JSON.")
def drift(
    checkpoint: Path,
    config: str | None,
    weights: str | None,
    labels: list[int | str] | None,
    contexts: Path | None,
    seed: int,
    limit: float | None,
    device: str,
    sampling_name: str | None,
    guidance: float | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Measure what leaving evaluations out does to the chains of CHECKPOINT's heads, and propose settings.

    The eager model makes a few images with every evaluation; on its predictions all candidates are measured. Drift is
    what a candidate's errors come to at the end of a chain, as a share of the noise that the chain adds. The proposal
    is the least work whose drift is within the limit; it is run once with the same draws. The limit was found on one
    model: compare images before you trust it.
    """
    if labels is not None and contexts is not None:
        raise click.UsageError("--labels and --contexts are both given; give the one that the model takes.")
    require_extra("model", "torch", "safetensors")
    from ..data.contexts import read_contexts
    from ..device import usable_device, use_threads
    from ..drift import drift_family
    from ..family import model_family, open_model

    use_threads()
    on = usable_device(device)
    model, _ = open_model(checkpoint, config, weights=weights)
    measured = drift_family(model.family)
    sampling = model_family(model.family).choose_sampling(model, sampling_name, guidance, changes, "this model")
    read = None if contexts is None else read_contexts(contexts)
    numbers = None
    if labels is not None:
        numbers = chosen_labels(labels, model.class_names, str(checkpoint))
    elif read is None and not getattr(model.config, "from_text", False):
        numbers = [place * model.config.classes // _IMAGES for place in range(_IMAGES)]
    with _evaluations() as on_evaluation:
        report = measured.measure(
            model.to(on), numbers, read, seed=seed, sampling=sampling, limit=limit, on_evaluation=on_evaluation
        )
    if as_json:
        click.echo(json.dumps({**asdict(report), "seed": seed, "sampling": sampling.to_dict()}, indent=1))
    else:
        _show(checkpoint, report)


@contextmanager
def _evaluations() -> Iterator[Callable[[int, int], None]]:
    """Yield a callback of (done, total) whose live line begins with the first call: a refusal shows none."""
    with ExitStack() as stack:
        lines: list[Callable[[int, int], None]] = []

        def on_evaluation(done: int, total: int) -> None:
            if not lines:
                lines.append(stack.enter_context(image_progress("every evaluation", "evaluations")))
            lines[0](done, total)

        yield on_evaluation


def _show(checkpoint: Path, report: DriftReport) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    click.echo(f"{checkpoint}: {report.images} images with every evaluation; drift is a share of the chain's noise.")
    for phase in report.phases:
        click.echo(f"\nphase {phase.name}: {phase.chain}")
        if phase.forecasts:
            console.print(_forecasts(phase, report.limit))
        if phase.caches:
            console.print(_caches(phase, report.limit))
        click.echo(phase.words)
    if report.latent_difference is None:
        click.echo("\nNothing is proposed.")
        return
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in report.changes.items())
    click.echo(f"\nproposed: {options}")
    click.echo(
        f"leaves {report.work:.1%} of the heads' work, and latents that differ by {report.latent_difference:.3f}"
    )
    click.echo(
        "(relative L2, the draws the same: errors feed back, which drift leaves out, and a chain that adds noise "
        "forgives much)."
    )


def _forecasts(phase: PhaseDrift, limit: float) -> Any:
    """A row per interval at the proposed first indices, or the middle ones; a column per order."""
    from rich.table import Table

    choices = sorted({each.first for each in phase.forecasts})
    proposed = phase.proposed if phase.proposed is not None and phase.proposed.interval > 1 else None
    first = proposed.first if proposed else choices[len(choices) // 2]
    shown = [each for each in phase.forecasts if each.first == first]
    orders = sorted({each.order for each in shown})
    table = Table(title=f"Forecasts, first {first}, last {shown[0].last}", title_justify="left")
    table.add_column("N", justify="right")
    table.add_column("work", justify="right")
    for order in orders:
        table.add_column(f"error, order {order}", justify="right")
        table.add_column("drift", justify="right")
    for interval in sorted({each.interval for each in shown}):
        row = {each.order: each for each in shown if each.interval == interval}
        cells = [str(interval), f"{next(iter(row.values())).work:.1%}"]
        for order in orders:
            chosen = proposed is not None and (proposed.interval, proposed.order) == (interval, order)
            cells += [f"{row[order].error:.3f}", _marked(row[order], limit, chosen)]
        table.add_row(*cells)
    return table


def _caches(phase: PhaseDrift, limit: float) -> Any:
    """A row per condition cache, alone and over the proposed forecast."""
    from rich.table import Table

    table = Table(title="Condition caches", title_justify="left")
    for heading in ("P", "N", "work", "error", "drift"):
        table.add_column(heading, justify="right")
    for each in phase.caches:
        chosen = phase.proposed == each
        alone = "of Δ " if each.interval == 1 else ""
        table.add_row(
            str(each.guidance_interval), str(each.interval), f"{each.work:.1%}", f"{alone}{each.error:.3f}",
            _marked(each, limit, chosen),
        )  # fmt: skip
    return table


def _marked(each: Candidate, limit: float, chosen: bool) -> str:
    text = f"{each.drift:.3f}"
    if chosen:
        return f"[bold green]{text} ←[/bold green]"
    return text if each.drift <= limit else f"[red]{text}[/red]"
