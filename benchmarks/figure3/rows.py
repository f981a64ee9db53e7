"""Collects what figure 3 measured as seconds per image: composed from calls, of whole generations, and published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.figure3.calls import composed, weights_of
from benchmarks.figure3.host import Call
from benchmarks.figure3.points import PUBLISHED
from benchmarks.figure3.ratios import composed_ratio, ratio_of
from himar_export.bench.measurement import EAGER, ENGINES
from himar_export.bench.verdict import Ratio

AGAINST, AGAINST_STEPS = "mar-b", 256
"""What the paper compares with."""


@dataclass(frozen=True)
class Row:
    """A setting's seconds per image by side.

    composed: from single calls, with what is between the networks where that was measured; networks: its part in them;
    whole: of measured generations. Empty where something is missing. ratio: eager's seconds by the engines', of whole
    generations where they were measured, else of the composed seconds.
    """

    model: str
    steps: int
    published: float | None
    composed: Mapping[str, float] = field(default_factory=dict)
    networks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    host: Mapping[str, float] = field(default_factory=dict)
    whole: Mapping[str, float] = field(default_factory=dict)
    ratio: Ratio | None = None

    @property
    def best(self) -> Mapping[str, float]:
        """Whole generations where they were measured, else the composed seconds."""
        return self.whole or self.composed


def rows_of(content: Mapping[str, Any]) -> list[Row]:
    """Return every setting of a record that has something to show, model by model."""
    return [row for name, entry in content["models"].items() for row in _model_rows(name, entry, content["request"])]


def _model_rows(name: str, entry: Mapping[str, Any], request: Mapping[str, Any]) -> Iterator[Row]:
    batch = request["batch"]
    sides = [side for side in (entry["calls"][0]["seconds"] if entry["calls"] else {})]
    for point in entry["points"]:
        calls = {call_of(each): each["count"] for each in point["calls"]}
        host = entry["host"].get(str(point["steps"]), {})
        networks: dict[str, dict[str, float]] = {}
        for side in sides:
            timed = {call_of(each): median(each["seconds"][side]) for each in entry["calls"] if side in each["seconds"]}
            try:
                networks[side] = {part: each / batch for part, each in composed(calls, timed).items()}
            except KeyError:  # not all of its calls were timed yet
                continue
        between = {side: seconds / batch for side, seconds in host.items()}
        whole = entry["whole"].get(str(point["steps"]), {"seconds": {}})
        all_of = {
            side: sum(parts.values()) + between.get(EAGER if side != ENGINES else ENGINES, 0.0)
            for side, parts in networks.items()
            if between or request["device"] != "cpu"
        }
        row = Row(
            name,
            point["steps"],
            point["published"],
            all_of,
            networks,
            between,
            {side: median(seconds) / batch for side, seconds in whole["seconds"].items()},
            ratio_of(whole) if whole["seconds"] else _ratio(calls, entry["calls"], host, all_of),
        )
        if row.best:
            yield row


def _ratio(
    calls: Mapping[Call, int], measured: list[Mapping[str, Any]], host: Mapping[str, float], all_of: Mapping[str, float]
) -> Ratio | None:
    """Return the composed ratio of a generation's calls; None where the seconds of a side are not all there."""
    if not {EAGER, ENGINES} <= set(all_of):
        return None
    entries = {call_of(each): each for each in measured if {EAGER, ENGINES} <= set(each["seconds"])}
    weights = {call: weight for call, weight in weights_of(calls, entries).items() if weight}
    others = [share for call in weights if (share := entries[call].get("others")) is not None]
    return composed_ratio(
        list(weights.values()),
        [entries[call]["seconds"][EAGER] for call in weights],
        [entries[call]["seconds"][ENGINES] for call in weights],
        (host.get(EAGER, 0.0), host.get(ENGINES, 0.0)),
        others if len(others) == len(weights) else (),
    )


def relative(rows: list[Row], side: str) -> list[tuple[Row, float]]:
    """Return every row of a side as times the seconds of MAR-B with 256 steps; "published" is a side too."""
    by = {(row.model, row.steps): value for row in rows if (value := seconds_of(row, side)) is not None}
    base = by.get((AGAINST, AGAINST_STEPS))
    return [] if base is None else [(row, by[row.model, row.steps] / base) for row in rows
                                    if (row.model, row.steps) in by]  # fmt: skip


def seconds_of(row: Row, side: str) -> float | None:
    """Return a row's seconds per image of a side, or "published"; None where there are none."""
    return row.published if side == "published" else row.best.get(side)


def published_rows() -> list[Row]:
    """Return the paper's points alone."""
    return [Row(model, steps, value) for model, own in PUBLISHED.items() for steps, value in own.items()]


def call_of(values: Mapping[str, Any]) -> Call:
    """Return the shape of a call that a record holds."""
    return Call(values["component"], values["rows"], values["known"])
