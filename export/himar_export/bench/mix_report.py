"""Reports generations with single eager components: a table, and sentences that name the wrong or the slow one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .measurement import ENGINES, Measurement
from .mixes import Difference, MixResult
from .text_table import NOTHING, TextTable, ratio_text, seconds_text

FALLS = 0.5
"""A difference that is more of what it was has not fallen: rounding alone moves it as much."""


def mix_table(measurement: Measurement, results: Sequence[MixResult]) -> TextTable:
    """Return a row for the engines, eager and each mix: seconds, and how far outputs are from eager and engines.

    That is the relative L2 of the latents, and the most pixel levels of 255.
    """
    rows = []
    for result in results:
        timed, ratio = measurement.times.get(result.side), measurement.ratios.get(result.side)
        codes = result.from_eager.codes
        rows.append(
            (
                result.side,
                "yes" if result.agrees else "NO",
                NOTHING if timed is None else seconds_text(timed.summary.median / measurement.batch),
                NOTHING if ratio is None else ratio_text(ratio),
                _apart(result.from_eager),
                NOTHING if codes is None else f"{codes:.1%}",
                NOTHING if result.parts is None else f"{result.parts:.1e}",
                _apart(result.from_engines),
            )
        )
    return TextTable(
        f"Batch {measurement.batch}: components run eagerly in the engines' loop; how far from eager fp32 and engines",
        ("side", "right", "s/image", "/ engines", "from eager", "codes", "parts", "from engines"),
        tuple(rows),
        2,
    )


def mix_verdicts(measurement: Measurement, results: Sequence[MixResult]) -> Iterator[str]:
    """Say which component's engine is the wrong one, or weighs most, and which are slower than PyTorch."""
    if not results:
        return
    name = f"generation, batch {measurement.batch}"
    by_side = {result.side: result for result in results}
    engines, single = by_side[ENGINES], _best(results)
    if engines.agrees:
        yield f"{name}: {_share(engines, single)}"
    else:
        yield f"{name}: {_wrong(engines, single, results)}"
    for result in results:
        ratio = measurement.ratios.get(result.side)
        if len(result.components) == 1 and ratio is not None and ratio.conclusive and ratio.value < 1:
            yield (
                f"{name}: with {result.side} it takes {ratio.value:.2f} of the engines' time (95 % interval "
                f"{ratio.low:.2f} … {ratio.high:.2f}): this engine is slower than PyTorch here."
            )


def _best(results: Sequence[MixResult]) -> Mapping[str, MixResult]:
    """Return each single component's mix, of two precisions the one nearer to eager."""
    found: dict[str, MixResult] = {}
    for result in results:
        if len(result.components) == 1:
            (name,) = result.components
            if name not in found or _distance(result) < _distance(found[name]):
                found[name] = result
    return found


def _distance(result: MixResult) -> tuple[bool, float]:
    """Return what orders results: those that agree first, then how far they are from eager."""
    return not result.agrees, result.from_eager.latents if result.parts is None else result.parts


def _falls(engines: MixResult, result: MixResult) -> str:
    what = (
        "the latents' difference from eager" if result.parts is None else "the largest difference of a single component"
    )
    before, after = engines.parts or engines.from_eager.latents, _distance(result)[1]
    return f"{what} falls from {before:.1e} to {after:.1e}"


def _wrong(engines: MixResult, single: Mapping[str, MixResult], results: Sequence[MixResult]) -> str:
    right = [name for name, result in single.items() if result.agrees]
    if len(right) == 1:
        return f"with {single[right[0]].side} {_falls(engines, single[right[0]])}: it is this engine that is wrong."
    if right:
        return f"with each of {', '.join(right)} eager by itself the outputs are right; no other component has to be."
    tried = f"with {', '.join(single)} eager, one at a time, the outputs stay wrong"
    every = next((result for result in results if len(result.components) > 1), None)
    if every is None:
        return f"{tried}; try the others, or all."
    if every.agrees:
        return f"{tried}, and with all of them eager they are right: more than one engine is wrong."
    return (
        f"{tried}, and with all of them eager too: what is between the networks is wrong, or the checkpoint is another."
    )


def _share(engines: MixResult, single: Mapping[str, MixResult]) -> str:
    nearest = min(single.values(), key=_distance)
    before = engines.parts or engines.from_eager.latents
    if nearest.agrees and _distance(nearest)[1] < FALLS * before:
        return f"the engines are right; most of their rounding goes with {nearest.side}: {_falls(engines, nearest)}."
    return "the engines are right, and no component that runs eagerly brings them nearer to eager."


def _apart(difference: Difference) -> str:
    pixels = "" if difference.pixels is None else f", {difference.pixels}/255"
    return f"{difference.latents:.1e}{pixels}"
