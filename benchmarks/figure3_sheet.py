"""What was measured for figure 3, as seconds per image: composed from calls, of whole generations, and published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from figure3_calls import composed
from figure3_points import OTHERS, PUBLISHED

from himar_export.bench.host import Call
from himar_export.bench.measurement import EAGER, ENGINES

AGAINST, AGAINST_STEPS = "mar-b", 256
"""What the paper compares with."""


@dataclass(frozen=True)
class Row:
    """A setting's seconds per image by side.

    composed: from single calls, with what is between the networks where that was measured; networks: its part in them;
    whole: of measured generations. Empty where something is missing.
    """

    model: str
    steps: int
    published: float | None
    composed: Mapping[str, float] = field(default_factory=dict)
    networks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    host: Mapping[str, float] = field(default_factory=dict)
    whole: Mapping[str, float] = field(default_factory=dict)

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
        calls = {_call(each): each["count"] for each in point["calls"]}
        host = entry["host"].get(str(point["steps"]), {})
        networks: dict[str, dict[str, float]] = {}
        for side in sides:
            timed = {_call(each): median(each["seconds"][side]) for each in entry["calls"] if side in each["seconds"]}
            try:
                networks[side] = {part: each / batch for part, each in composed(calls, timed).items()}
            except KeyError:  # not all of its calls were timed yet
                continue
        between = {side: seconds / batch for side, seconds in host.items()}
        whole = entry["whole"].get(str(point["steps"]), {"seconds": {}})["seconds"]
        row = Row(
            name,
            point["steps"],
            point["published"],
            {
                side: sum(parts.values()) + between.get(EAGER if side != ENGINES else ENGINES, 0.0)
                for side, parts in networks.items()
                if between or request["device"] != "cpu"
            },
            networks,
            between,
            {side: median(seconds) / batch for side, seconds in whole.items()},
        )
        if row.best:
            yield row


def relative(rows: list[Row], side: str) -> list[tuple[Row, float]]:
    """Return every row of a side as times the seconds of MAR-B with 256 steps; "published" is a side too."""
    by = {(row.model, row.steps): value for row in rows if (value := seconds_of(row, side)) is not None}
    base = by.get((AGAINST, AGAINST_STEPS))
    return [] if base is None else [(row, by[row.model, row.steps] / base) for row in rows
                                    if (row.model, row.steps) in by]  # fmt: skip


def seconds_of(row: Row, side: str) -> float | None:
    """Return a row's seconds per image of a side, or "published"; None where there are none."""
    return row.published if side == "published" else row.best.get(side)


def markdown(content: Mapping[str, Any]) -> str:
    """Return the figure's numbers as a page, with how they were made."""
    rows, request = rows_of(content), content["request"]
    sides = list(dict.fromkeys(side for row in rows for side in row.best))
    published = any(row.published is not None for row in rows)
    shown = [*sides, "published"] if published else sides
    shares = {side: {(row.model, row.steps): value for row, value in relative(rows, side)} for side in shown}
    headings = ["model", "steps", *shown, *(f"{side}, of {AGAINST}'s" for side in shown if shares[side])]
    if ENGINES in sides:
        headings.insert(2 + len(shown), "eager / engines")
    lines = [_table_row(headings), _table_row(["---"] + ["---:"] * (len(headings) - 1))]
    for row in rows:
        cells = [row.model, str(row.steps), *(_seconds(seconds_of(row, side)) for side in shown)]
        if ENGINES in sides:
            eager, engines = row.best.get(EAGER), row.best.get(ENGINES)
            cells.append("–" if eager is None or engines is None else f"{eager / engines:.2f}×")
        for side in shown:
            if shares[side]:
                share = shares[side].get((row.model, row.steps))
                cells.append("–" if share is None else f"{share:.2f}")
        lines.append(_table_row(cells))
    where = content["environment"].get("gpu") or content["environment"]["processor"]
    threads = f", {content['threads']} threads" if request["device"] == "cpu" else ""
    eager = " (eager in fp32)" if request["precision"] == "int8" else ""
    decoded = {entry["to"] for entry in content["models"].values()}
    about = [
        f"Seconds per image, labels to {' or '.join(sorted(decoded))}, at batch {request['batch']} in "
        f"{request['precision']}{eager} on {request['device']} ({where}{threads}), engines by {request['backend']}.",
        *_how(rows, content),
    ]
    if published:
        others = ", ".join(f"{name}: {value}" for name, value in OTHERS.items())
        about.append(
            f"published: one H100, batch 128, eager PyTorch, read off the paper's figure, so two digits at most; – "
            f"where none could be read. {others}."
        )
    command = " ".join(map(str, content["environment"]["command"]))
    return "\n".join(["# Figure 3: seconds per image", "", *lines, "", *(f"* {line}" for line in about), "",
                      f"Command: `{command}`", ""])  # fmt: skip


def _how(rows: list[Row], content: Mapping[str, Any]) -> Iterator[str]:
    """Say which rows are composed and which measured whole, and how far both are apart where there are both."""
    if any(not row.whole for row in rows):
        calls = sum(len(entry["calls"]) for entry in content["models"].values())
        between = (
            "and what is between the networks, timed at the real settings with networks that answer at once"
            if content["request"]["device"] == "cpu"
            else "without what is between the networks"
        )
        yield (
            f"Composed, not run as a whole: the sum over all calls of a generation of their count times the median "
            f"seconds of one, from {calls} timed shapes (between two of a series on their line), {between}. Networks' "
            f"outputs were compared with the eager model's before they were timed."
        )
    both = [row for row in rows if row.whole and row.composed]
    if both:
        for side in both[0].whole:
            shares = [row.composed[side] / row.whole[side] for row in both if side in row.composed]
            if shares:
                yield f"{side}: composed seconds are {min(shares):.2f} to {max(shares):.2f} of whole generations'."
    between_shares = [row.host[side] / row.composed[side] for row in rows for side in row.host if side in row.composed]
    if between_shares:
        yield f"Between the networks lies {min(between_shares):.1%} to {max(between_shares):.1%} of the seconds."


def published_rows() -> list[Row]:
    """Return the paper's points alone."""
    return [Row(model, steps, value) for model, own in PUBLISHED.items() for steps, value in own.items()]


def _call(values: Mapping[str, Any]) -> Call:
    return Call(values["component"], values["rows"], values["known"])


def _table_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
