"""Writes figure 3's numbers as a page: seconds per image, the calls they are made of, and notes on both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.figure3.points import OTHERS
from benchmarks.figure3.ratios import ratio_of
from benchmarks.figure3.rows import AGAINST, Row, relative, rows_of, seconds_of
from himar_export.bench.measurement import ENGINES, SIDES
from himar_export.bench.text_table import NOTHING, ratio_text
from himar_export.bench.verdict import Ratio

RATIO = "eager / engines"


def markdown(content: Mapping[str, Any]) -> str:
    """Return the page: both tables, each with how its numbers were made and why any is inconclusive."""
    rows = rows_of(content)
    command = " ".join(map(str, content["environment"]["command"]))
    parts = [
        ["# Figure 3: seconds per image"],
        _images(rows),
        _bullets(_about_images(rows, content)),
        *([["## Single calls, ms"], _calls(content), _bullets(_about_calls(content))] if _measured(content) else []),
        [f"Command: `{command}`"],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _images(rows: list[Row]) -> list[str]:
    sides = list(dict.fromkeys(side for row in rows for side in row.best))
    shown = [*sides, "published"] if _published(rows) else sides
    shares = {side: {(row.model, row.steps): value for row, value in relative(rows, side)} for side in shown}
    shared = [side for side in shown if shares[side]]
    headings = ["model", "steps", *shown, *([RATIO] if ENGINES in sides else []),
                *(f"{side}, of {AGAINST}'s" for side in shared)]  # fmt: skip
    cells = []
    for row in rows:
        seconds = [_seconds(seconds_of(row, side)) for side in shown]
        of_single = [shares[side].get((row.model, row.steps)) for side in shared]
        cells.append(
            [row.model, str(row.steps), *seconds, *([_ratio(row.ratio)] if ENGINES in sides else []),
             *(NOTHING if share is None else f"{share:.2f}" for share in of_single)]
        )  # fmt: skip
    return _table(headings, cells, 1)


def _calls(content: Mapping[str, Any]) -> list[str]:
    measured = _measured(content)
    sides = [side for side in SIDES if any(side in call["seconds"] for _, call in measured)]
    cells = []
    for model, call in measured:
        medians = [f"{1000 * median(call['seconds'][side]):.4g}" if side in call["seconds"] else NOTHING
                   for side in sides]  # fmt: skip
        known = str(call["known"]) if call["component"].startswith("transformer") else NOTHING
        cells.append([model, call["component"], str(call["rows"]), known, *medians, _ratio(ratio_of(call))])
    return _table(["model", "component", "rows", "visible", *sides, RATIO], cells, 2)


def _about_images(rows: list[Row], content: Mapping[str, Any]) -> Iterator[str]:
    request = content["request"]
    where = content["environment"].get("gpu") or content["environment"]["processor"]
    threads = f", {content['threads']} threads" if request["device"] == "cpu" else ""
    eager = " (eager in fp32)" if request["precision"] == "int8" else ""
    decoded = {entry["to"] for entry in content["models"].values()}
    yield (
        f"Seconds per image, labels to {' or '.join(sorted(decoded))}, at batch {request['batch']} in "
        f"{request['precision']}{eager} on {request['device']} ({where}{threads}), engines by {request['backend']}."
    )
    yield from _how(rows, content)
    yield from _doubted((f"{row.model} with {_count(row.steps, 'step')}", row.ratio) for row in rows)
    if _published(rows):
        others = ", ".join(f"{name}: {value}" for name, value in OTHERS.items())
        yield (
            f"published: one H100, batch 128, eager PyTorch, read off the paper's figure, so two digits at most; – "
            f"where none could be read. {others}."
        )


def _how(rows: list[Row], content: Mapping[str, Any]) -> Iterator[str]:
    """Say which rows are composed and which measured whole, and how far both are apart where there are both."""
    if any(not row.whole for row in rows):
        calls = len(_measured(content))
        between = (
            "and what is between the networks, timed at the real settings with networks that answer at once"
            if content["request"]["device"] == "cpu"
            else "without what is between the networks"
        )
        yield (
            f"Composed, not run as a whole: the sum over all calls of a generation of their count times the median "
            f"seconds of one, from {calls} timed shapes (between two of a series on their line), {between}. Networks' "
            f"outputs were compared with the eager model's before they were timed. {RATIO} is of these sums; in "
            f"brackets its 95 % interval by drawing the rounds again."
        )
    if any(row.whole for row in rows):
        yield (
            f"Whole generations: {RATIO} is the median over rounds of which each has both, so it need not be the "
            f"quotient of the medians beside it; in brackets its interval of at least 95 % confidence."
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


def _about_calls(content: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"Medians over rounds in which both sides take turns; visible: positions of its phase that a transformer sees. "
        f"{RATIO} is the median over the rounds' own ratios, in brackets its interval of at least 95 % confidence."
    )
    named = [(f"{model}, {_shape(call)}", call) for model, call in _measured(content)]
    yield from _doubted((name, ratio_of(call)) for name, call in named)
    for name, call in named:
        doubts = [f"{side}: {'; '.join(each)}" for side, each in call.get("doubts", {}).items() if each]
        if doubts:
            yield f"{name}, doubts about a side's own figures. {'. '.join(doubts)}."


def _doubted(ratios: Iterable[tuple[str, Ratio | None]]) -> Iterator[str]:
    """Say why ratios are inconclusive, once for all that have the same reasons."""
    named = [(name, ratio) for name, ratio in ratios if ratio is not None]
    reasons: dict[tuple[str, ...], list[str]] = {}
    for name, ratio in named:
        if ratio.doubts:
            reasons.setdefault(ratio.doubts, []).append(name)
    for doubts, names in reasons.items():
        which = "every ratio" if 1 < len(names) == len(named) else "; ".join(names)
        yield f"Inconclusive (?): {which}, since {'; '.join(doubts)}."


def _measured(content: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, call) for name, entry in content["models"].items() for call in entry["calls"]]


def _shape(call: Mapping[str, Any]) -> str:
    visible = f", {call['known']} visible" if call["component"].startswith("transformer") else ""
    return f"{call['component']}, {_count(call['rows'], 'row')}{visible}"


def _published(rows: list[Row]) -> bool:
    return any(row.published is not None for row in rows)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _ratio(ratio: Ratio | None) -> str:
    return NOTHING if ratio is None else ratio_text(ratio)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> list[str]:
    rule = ["---" if number < words else "---:" for number in range(len(headings))]
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]


def _bullets(lines: Iterable[str]) -> list[str]:
    return [f"* {line}" for line in lines]


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
