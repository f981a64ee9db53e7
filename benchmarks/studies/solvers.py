"""Measures digits with fewer diffusion steps: quality against work over solvers and steps, on a bundle's engines.

Run from the repository, after `make demo`; about 20 minutes of one core:

    python -m benchmarks.studies.solvers demo/digits --out docs/solvers/digits
    python -m benchmarks.studies.solvers demo/digits --out docs/solvers/digits --time 3    # seconds, on a quiet machine

Writes digits.json, digits.md and digits.png. What the JSON holds is not measured again, so a run that was stopped
continues; one of other weights, images or seeds is refused.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.studies.record import (
    COUNT,
    FIGURES,
    IMAGES,
    fields,
    read_study,
    require_decoder,
    require_numbers,
    require_writable,
)
from benchmarks.studies.solvers_settings import DEFAULT, Trial, trials
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.files import write_json, write_text
from himar_kernels.shared.options import THREADS, NamedPath

_TIMED = 64  # images of a timed run: the engines' largest batch


@click.command(epilog="Example: python -m benchmarks.studies.solvers demo/digits --out docs/solvers/digits")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", required=True, type=NamedPath(), help="JSON, MD and PNG, without their endings.")
@click.option("--images", default=300, show_default=True, type=IMAGES, help="Images of each setting and seed.")
@click.option("--seeds", default=3, show_default=True, type=COUNT, help="Seeds 0, 1, … of each setting.")
@click.option("--threads", default=1, show_default=True, type=THREADS, help="CPU threads of the engines.")
@click.option("--time", "rounds", type=COUNT, help="Time instead: so many rounds of every setting in turn.")
@click.option("--only", multiple=True, help="A setting's name; may be repeated. All if not given.")
def main(
    bundle: Path, out: Path, images: int, seeds: int, threads: int, rounds: int | None, only: Sequence[str]
) -> None:
    """Measure or time the settings on the digits BUNDLE."""
    from benchmarks.studies.solvers_report import plot, table
    from himar_runtime import Pipeline

    if out.name in ("", ".."):
        raise click.BadParameter(
            f"{out} names a folder; add the files' name without their endings.", param_hint="--out"
        )
    # Not `with_suffix`, which would cut "v1.2".
    target, report, drawing = (out.with_name(f"{out.name}.{ending}") for ending in ("json", "md", "png"))
    wanted = _chosen(only)
    require_decoder(bundle)
    require_writable(target, report, drawing)
    pipeline = Pipeline.load(bundle, threads=threads)
    weights = pipeline.bundle.manifest.provenance["checkpoint"]["sha256"]
    study = _read(target, weights, images, seeds)
    _require_shown(target, study, wanted, rounds is not None)
    study["flops"] = {trial.name: _flops(bundle, trial) for trial in trials()}
    if rounds is None:
        _measure(study, pipeline, wanted, lambda: _write(target, study))
    else:
        study["seconds"] |= _times(pipeline, wanted, rounds)
    _write(target, study)
    write_text(report, table(study))
    click.echo(f"wrote {target}, {report} and {plot(drawing, study)}")


def _measure(study: dict[str, Any], pipeline: Any, wanted: Sequence[Trial], save: Any) -> None:
    """Add the figures of every setting and seed that are not there yet."""
    from benchmarks.studies.measure import Judge, even_labels

    judge, labels = Judge(), even_labels(study["images"])
    study["held_out"] = judge.held_out().to_dict()
    for seed in range(study["seeds"]):
        for trial in wanted:
            points = study["points"].setdefault(trial.name, {})
            if str(seed) not in points:
                made = pipeline.generate(labels, seed=seed, **trial.changes).images
                points[str(seed)] = judge.figures(made, labels).to_dict()
                save()
                click.echo(f"seed {seed}, {trial.name}: {json.dumps(points[str(seed)])}")


def _times(pipeline: Any, wanted: Sequence[Trial], rounds: int) -> dict[str, float]:
    """Return each setting's share of the default's seconds, the least of `rounds` runs in turns."""
    labels = [number % 10 for number in range(_TIMED)]
    least = dict.fromkeys((trial.name for trial in wanted), float("inf"))
    for trial in wanted:
        pipeline.generate(labels[:2], **trial.changes)  # what is done at a first run is not timed
    for _ in range(rounds):
        for trial in wanted:
            start = time.perf_counter()
            pipeline.generate(labels, **trial.changes)
            least[trial.name] = min(least[trial.name], time.perf_counter() - start)
    return {name: seconds / least[DEFAULT] for name, seconds in least.items()}


def _flops(bundle: Path, trial: Trial) -> float:
    """Operations per image, decoder included."""
    from himar_export.cost.cost import Peaks
    from himar_export.cost.request import bundle_request
    from himar_export.cost.run import request_costs, total_cost

    request = bundle_request(bundle, 1, None, None, **trial.changes)
    return total_cost(request_costs(request, Peaks())).work.flops


def _chosen(only: Sequence[str]) -> list[Trial]:
    known = {trial.name: trial for trial in trials()}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise InputError(f"there is no setting {unknown[0]!r}; there are {', '.join(map(repr, known))}.")
    return [known[name] for name in only] if only else list(known.values())


def _read(path: Path, weights: str, images: int, seeds: int) -> dict[str, Any]:
    """Return what is known of these weights, without settings that the study no longer has.

    Raises InputError for a file that is not a record of the study, or one of other weights, images or seeds.
    """
    asked = {"weights": weights, "images": images, "seeds": seeds}
    study = read_study(path, asked, _check) or {**asked, "points": {}, "seconds": {}}
    names = {trial.name for trial in trials()}
    for part in ("points", "seconds"):
        study[part] = {name: value for name, value in study[part].items() if name in names}
    return study


def _check(study: Mapping[str, Any]) -> None:
    """Raise TypeError or KeyError where a record has not the form that `_measure` writes."""
    for points in fields(study["points"]).values():
        for point in fields(points).values():
            require_numbers(point, *FIGURES)
    require_numbers(study["seconds"], *fields(study["seconds"]))
    if "held_out" in study:
        require_numbers(study["held_out"], "images", *FIGURES)


def _require_shown(path: Path, study: Mapping[str, Any], wanted: Sequence[Trial], timed: bool) -> None:
    """Raise InputError where the table would lack the default, which all others are compared with, or a timed one."""
    names, seeds = [trial.name for trial in wanted], {str(seed) for seed in range(study["seeds"])}
    lacking = [name for name in (DEFAULT, *names) if not seeds <= set(study["points"].get(name, {}))]
    if timed:
        if DEFAULT not in names:
            raise InputError(f"times are shares of the default's: add --only {DEFAULT}.")
        if lacking or "held_out" not in study:
            which = f"the figures of {lacking[0]!r}" if lacking else "the held-out digits' figures"
            raise InputError(f"{path} lacks {which}; run the same command without --time first.")
    elif DEFAULT in lacking and DEFAULT not in names:
        raise InputError(f"{path} lacks the figures of {DEFAULT!r}, which all are compared with; add --only {DEFAULT}.")


def _write(path: Path, study: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, study)


if __name__ == "__main__":
    sys.exit(run_cli(main))
