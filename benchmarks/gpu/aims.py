"""Judges the project's aims by a record: met, missed or not measured, with the figure and where it is from.

Times are of Hi-MAR-B on a GPU and say nothing of other models; that outputs are right, that two runs are equal to the
bit and that engines take no more memory than eager is judged of any record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.generations import RECORDED
from benchmarks.gpu.record import unfinished
from himar_export.bench.measurement import COMPILED, EAGER, ENGINES

MODEL, ROWS, BATCH = "himar-b", 256, 128
OURS = (ENGINES, RECORDED)
Found = tuple[float, str]
"""A value, and the piece that it is from."""


@dataclass(frozen=True)
class Aim:
    """At most `limit` of what `find` returns the values of, of which the smallest counts."""

    text: str
    limit: float
    find: Callable[[Mapping[str, Any]], Iterator[Found]]


def aims(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each aim with its verdict: "met", "missed", or "not measured" with the reason."""
    asked = content["asked"]
    reason = None
    if asked["model"] != MODEL or not asked["device"].startswith("cuda"):
        reason = f"the aim is of {MODEL} on a GPU, and this is {asked['model']} on {asked['device']}"
    return [*(_judge(aim, content, reason) for aim in AIMS), _parity(content), _bits(content), _memory(content)]


def figures_of(
    content: Mapping[str, Any], prefix: str, begun: bool = False
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Return piece, name and value of every figure that is a mapping, of the pieces whose names begin so.

    begun: also of figures that are not whole.
    """
    for piece, own in content["pieces"].items():
        if piece.startswith(prefix):
            for name, value in own["figures"].items():
                if isinstance(value, Mapping) and (begun or not unfinished(value)):
                    yield piece, name, value


def _head(kind: str) -> Callable[[Mapping[str, Any]], Iterator[Found]]:
    """Return a head's seconds in a call at batch 128, in every way in which it was called."""

    def find(content: Mapping[str, Any]) -> Iterator[Found]:
        for prefix in ("calls, fp16", "heads, fp16"):
            for piece, name, value in figures_of(content, prefix):
                of_batch = name == kind or name == f"{kind}, batch {BATCH}"
                if of_batch and ENGINES in value.get("seconds", {}):
                    yield value["seconds"][ENGINES], piece

    return find


def _dit_head(content: Mapping[str, Any]) -> Iterator[Found]:
    return _head("dit_head")(content)


def _against_compiled(content: Mapping[str, Any]) -> Iterator[Found]:
    for _, name, value in figures_of(content, "calls, fp16"):
        if name == "dit_head" and COMPILED in value["seconds"]:
            for seconds, piece in _dit_head(content):
                yield seconds / value["seconds"][COMPILED], piece


def _images(precision: str, batch: int, setting: str) -> Callable[[Mapping[str, Any]], Iterator[Found]]:
    """Return the engines' seconds per image of a whole generation."""

    def find(content: Mapping[str, Any]) -> Iterator[Found]:
        for piece, _, value in figures_of(content, f"generation, {precision}"):
            if piece.endswith(f", batch {batch}, {setting}"):
                yield from (
                    (value["seconds_per_image"][side], piece) for side in OURS if side in value["seconds_per_image"]
                )

    return find


AIMS = (
    Aim(f"DiT head, {ROWS} rows in fp16: at most 9.1 ms", 0.0091, _dit_head),
    Aim("DiT head: at most 0.8 of torch.compile's time", 0.8, _against_compiled),
    Aim(f"MLP head, batch {BATCH} in fp16: at most 0.6 ms a call", 0.0006, _head("mlp_head")),
    Aim(f"batch {BATCH}, the paper's sampler: at most 0.08 s per image", 0.08, _images("fp16", BATCH, "paper")),
    Aim(f"batch {BATCH}, forecast: at most 0.03 s per image", 0.03, _images("fp16", BATCH, "forecast")),
    Aim("batch 1, the paper's sampler: at most 1.2 s", 1.2, _images("fp16", 1, "paper")),
    Aim(f"batch {BATCH} in fp8, the paper's sampler: at most 0.05 s per image", 0.05, _images("fp8", BATCH, "paper")),
)


def _judge(aim: Aim, content: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    found = [] if reason is not None else list(aim.find(content))
    if not found:
        return _not_measured(aim.text, reason or "no piece has it, or what it ran gave other outputs")
    value, piece = min(found)
    return {"aim": aim.text, "verdict": "met" if value <= aim.limit else "missed", "value": value,
            "limit": aim.limit, "from": piece}  # fmt: skip


def _parity(content: Mapping[str, Any]) -> dict[str, Any]:
    """Judge whether every component, and every run, gave the outputs that it has to."""
    text, wrong = "outputs of every component and run as the eager model's", []
    for piece, name, value in figures_of(content, ""):
        refused = value.get("refused", {})
        wrong += [f"{piece}: {name}: {refused[side]}" for side in OURS if side in refused]
        if value.get("passed") is False and piece.startswith("self-test"):
            wrong.append(f"{piece}: {name}")
    if wrong:
        return {"aim": text, "verdict": "missed", "value": None, "from": "; ".join(wrong)}
    return _when_all_ran(content, text, ("self-test", "calls", "rows", "heads", "generation"))


def _bits(content: Mapping[str, Any]) -> dict[str, Any]:
    """Judge whether all runs of a generation gave the same bits."""
    text = "two runs equal to the bit"
    found = [(piece, side, value["bit_equal"][side]) for piece, _, value in figures_of(content, "generation")
             for side in OURS if side in value["bit_equal"]]  # fmt: skip
    if unequal := [f"{piece}: {side}" for piece, side, equal in found if not equal]:
        return {"aim": text, "verdict": "missed", "value": None, "from": "; ".join(unequal)}
    if not found:
        return _not_measured(text, "no generation ran twice")
    return _when_all_ran(content, text, ("generation",))


def _memory(content: Mapping[str, Any]) -> dict[str, Any]:
    text, ratios = "memory of a generation at most eager's", []
    kind = "device" if content["asked"]["device"].startswith("cuda") else "peak"
    for piece, name, value in figures_of(content, "memory"):
        if name == "memory":
            ratios.append((value[ENGINES][kind] / value[EAGER][kind], piece))
    if not ratios:
        return _not_measured(text, "no piece has it")
    value, piece = max(ratios)
    return {"aim": text, "verdict": "met" if value <= 1 else "missed", "value": value, "limit": 1.0, "from": piece}


def _when_all_ran(content: Mapping[str, Any], text: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return "met" where all pieces of these kinds are done, else what is not."""
    own = {piece: each for piece, each in content["pieces"].items() if piece.partition(",")[0] in kinds}
    left = [f"{piece} ({each['state']})" for piece, each in own.items() if each["state"] != "done"]
    if left or not own:
        return _not_measured(text, f"of {len(own)} pieces these are not done: {', '.join(left) or 'all'}")
    return {"aim": text, "verdict": "met", "value": None, "from": f"{len(own)} pieces"}


def _not_measured(text: str, reason: str) -> dict[str, Any]:
    return {"aim": text, "verdict": "not measured", "value": None, "reason": reason}
