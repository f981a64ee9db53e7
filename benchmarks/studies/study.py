"""Runs a study of digits: named settings of one bundle, measured over seeds or timed, kept in a record and shown.

A study gives settings, a table and a plot; the rest is here. Its command has `study_options` and calls `run`, which
writes OUT.json, OUT.md and OUT.png. What the JSON holds is not measured again, so a run that was stopped continues; one
of other weights, images or seeds is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from himar_kernels import InputError
from himar_kernels.shared.files import write_json, write_text
from himar_kernels.shared.options import THREADS, NamedPath

DEFAULT = "default"
"""The setting that all others of a study are compared with."""

_TIMED = 64  # images of a timed run: the engines' largest batch


@dataclass(frozen=True)
class Setting:
    """A setting of a study. changes: of the bundle's default sampling, as `Pipeline.generate` takes them."""

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """Settings, the one named `DEFAULT` among them, and what shows a record of them.

    A record has study (its name), weights, images, seeds; points (setting → seed → figures), flops and seconds (setting
    → number; seconds as shares of the default's), and held_out (figures). table: record → Markdown. plot: draws a
    record to a file and returns it.
    """

    name: str
    settings: Sequence[Setting]
    table: Callable[[Mapping[str, Any]], str]
    plot: Callable[[Path, Mapping[str, Any]], Path]


def study_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of `run` to a command."""
    for add in reversed(
        (
            click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False)),
            click.option("--out", required=True, type=NamedPath(), help="JSON, MD and PNG, without their endings."),
            click.option(
                "--images", default=300, show_default=True, type=IMAGES, help="Images of each setting and seed."
            ),
            click.option("--seeds", default=3, show_default=True, type=COUNT, help="Seeds 0, 1, … of each setting."),
            click.option("--threads", default=1, show_default=True, type=THREADS, help="CPU threads of the engines."),
            click.option("--time", "rounds", type=COUNT, help="Time instead: so many rounds of every setting in turn."),
            click.option("--only", multiple=True, help="A setting's name; may be repeated. All if not given."),
        )
    ):
        function = add(function)
    return function


def run(
    study: Study,
    bundle: Path,
    out: Path,
    images: int,
    seeds: int,
    threads: int,
    rounds: int | None,
    only: Sequence[str],
) -> None:
    """Measure the settings on a bundle of digits, or time them in `rounds` turns, and write record, table and plot.

    Raises InputError, before it measures, for what the study could not go on with; BadParameter for a folder as `out`.
    """
    from himar_runtime import Pipeline

    if out.name in ("", ".."):
        raise click.BadParameter(
            f"{out} names a folder; add the files' name without their endings.", param_hint="--out"
        )
    # Not `with_suffix`, which would cut "v1.2".
    target, report, drawing = (out.with_name(f"{out.name}.{ending}") for ending in ("json", "md", "png"))
    wanted = chosen(study.settings, only)
    require_decoder(bundle)
    require_writable(target, report, drawing)
    pipeline = Pipeline.load(bundle, threads=threads)
    weights = pipeline.bundle.manifest.provenance["checkpoint"]["sha256"]
    record = read(target, study, {"weights": weights, "images": images, "seeds": seeds})
    _require_shown(target, record, wanted, rounds is not None)
    record["flops"] = {setting.name: flops(bundle, setting) for setting in study.settings}
    if rounds is None:
        _measure(record, pipeline, wanted, lambda: _write(target, record))
    else:
        record["seconds"] |= _times(pipeline, wanted, rounds)
    _write(target, record)
    write_text(report, study.table(record))
    click.echo(f"wrote {target}, {report} and {study.plot(drawing, record)}")


def chosen(settings: Sequence[Setting], only: Sequence[str]) -> list[Setting]:
    """Return the settings of these names, all for none. Raises InputError for a name that is none."""
    known = {setting.name: setting for setting in settings}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise InputError(f"there is no setting {unknown[0]!r}; there are {', '.join(map(repr, known))}.")
    return [known[name] for name in only] if only else list(known.values())


def read(path: Path, study: Study, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record in a file, without settings that the study no longer has; an empty one where there is none.

    asked: what its figures have in common. Raises InputError for a file that is not a record of the study, or one of
    other weights, images or seeds.
    """
    asked = {"study": study.name, **asked}
    record = read_study(path, asked, _check) or {**asked, "points": {}, "seconds": {}}
    names = {setting.name for setting in study.settings}
    for part in ("points", "seconds"):
        record[part] = {name: value for name, value in record[part].items() if name in names}
    return record


def complete(record: Mapping[str, Any], settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings that were measured with all seeds of a record."""
    return [setting for setting in settings if len(record["points"].get(setting.name, {})) == record["seeds"]]


def flops(bundle: Path, setting: Setting) -> float:
    """Return the operations per image of a setting, decoder included."""
    from himar_export.cost.cost import Peaks
    from himar_export.cost.request import bundle_request
    from himar_export.cost.run import request_costs, total_cost

    request = bundle_request(bundle, 1, None, None, **setting.changes)
    return total_cost(request_costs(request, Peaks())).work.flops


def _measure(record: dict[str, Any], pipeline: Any, wanted: Sequence[Setting], save: Callable[[], None]) -> None:
    """Add the figures of every setting and seed that are not there yet."""
    from benchmarks.studies.measure import Judge, even_labels

    judge, labels = Judge(), even_labels(record["images"])
    record["held_out"] = judge.held_out().to_dict()
    for seed in range(record["seeds"]):
        for setting in wanted:
            points = record["points"].setdefault(setting.name, {})
            if str(seed) not in points:
                made = pipeline.generate(labels, seed=seed, **setting.changes).images
                points[str(seed)] = judge.figures(made, labels).to_dict()
                save()
                click.echo(f"seed {seed}, {setting.name}: {json.dumps(points[str(seed)])}")


def _times(pipeline: Any, wanted: Sequence[Setting], rounds: int) -> dict[str, float]:
    """Return each setting's share of the default's seconds, the least of `rounds` runs in turns."""
    labels = [number % 10 for number in range(_TIMED)]
    least = dict.fromkeys((setting.name for setting in wanted), float("inf"))
    for setting in wanted:
        pipeline.generate(labels[:2], **setting.changes)  # what is done at a first run is not timed
    for _ in range(rounds):
        for setting in wanted:
            start = time.perf_counter()
            pipeline.generate(labels, **setting.changes)
            least[setting.name] = min(least[setting.name], time.perf_counter() - start)
    return {name: seconds / least[DEFAULT] for name, seconds in least.items()}


def _check(record: Mapping[str, Any]) -> None:
    """Raise TypeError or KeyError where a record has not the form that `_measure` writes."""
    for points in fields(record["points"]).values():
        for point in fields(points).values():
            require_numbers(point, *FIGURES)
    require_numbers(record["seconds"], *fields(record["seconds"]))
    if "held_out" in record:
        require_numbers(record["held_out"], "images", *FIGURES)


def _require_shown(path: Path, record: Mapping[str, Any], wanted: Sequence[Setting], timed: bool) -> None:
    """Raise InputError where the table would lack the default, which all others are compared with, or a timed one."""
    names, seeds = [setting.name for setting in wanted], {str(seed) for seed in range(record["seeds"])}
    lacking = [name for name in (DEFAULT, *names) if not seeds <= set(record["points"].get(name, {}))]
    if timed:
        if DEFAULT not in names:
            raise InputError(f"times are shares of the default's: add --only {DEFAULT}.")
        if lacking or "held_out" not in record:
            which = f"the figures of {lacking[0]!r}" if lacking else "the held-out digits' figures"
            raise InputError(f"{path} lacks {which}; run the same command without --time first.")
    elif DEFAULT in lacking and DEFAULT not in names:
        raise InputError(f"{path} lacks the figures of {DEFAULT!r}, which all are compared with; add --only {DEFAULT}.")


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
