"""Checks the form of figure 3's record: what a file must hold so that tables and plots can be made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def require_form(content: Any) -> None:
    """Raise TypeError, ValueError or KeyError unless a file's JSON has the form that `measure_figure` writes.

    What records of before lack, environment, threads and ratios, may be missing.
    """
    request = _object(content)["request"]
    _texts(request, "device", "precision", "backend")
    _count(request["batch"], 1)
    if content.get("threads") is not None:
        _count(content["threads"], 1)
    _environment(_object(content.get("environment", {})))
    for entry in _object(content["models"]).values():
        _texts(entry, "bundle", "to")
        for call in _list(entry["calls"]):
            _call(call)
            _timed(call)
        for sides in _object(entry["host"]).values():
            for seconds in _object(sides).values():
                _seconds(seconds)
        for whole in _object(entry["whole"]).values():
            _timed(whole)
        for point in _list(entry["points"]):
            _count(_object(point)["steps"], 1)
            if point["published"] is not None:
                _seconds(point["published"])
            for call in _list(point["calls"], 1):
                _call(call)
                _count(call["count"], 1)


def _environment(environment: Mapping[str, Any]) -> None:
    """Check what tables show of the machine."""
    _texts(environment, *({"processor", "gpu"} & set(environment)))
    _texts(_object(environment.get("versions", {})), *environment.get("versions", {}))
    _list(environment.get("command", []))


def _call(call: Any) -> None:
    """Check the shape of a call."""
    _texts(call, "component")
    _count(call["rows"], 1)
    _count(call["known"], 0)


def _timed(entry: Any) -> None:
    """Check the seconds of sides, and what was made of them."""
    for rounds in _object(_object(entry)["seconds"]).values():
        for seconds in _list(rounds, 1):
            _seconds(seconds)
    for ratio in _object(entry.get("ratios", {})).values():
        _seconds(_object(ratio)["value"])
        if (ratio["low"] is None) != (ratio["high"] is None):
            raise TypeError("an interval has one end")
        for end in (ratio["low"], ratio["high"]):
            if end is not None:
                _seconds(end)
        _all_texts(ratio["doubts"])
    for doubts in _object(entry.get("doubts", {})).values():
        _all_texts(doubts)
    others = entry.get("others")
    if others is not None:
        _number(others)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is not an object")
    return value


def _list(value: Any, least: int = 0) -> list[Any]:
    if not isinstance(value, list) or len(value) < least:
        raise TypeError(f"{value!r:.40} is not a list of {least} or more")
    return value


def _all_texts(value: Any) -> None:
    for each in _list(value):
        if not isinstance(each, str):
            raise TypeError(f"{each!r:.40} is not text")


def _texts(values: Any, *names: str) -> None:
    _all_texts([_object(values)[name] for name in names])


def _count(value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise TypeError(f"{value!r:.40} is not a count")


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.40} is not a finite number")


def _seconds(value: Any) -> None:
    _number(value)
    if value <= 0:
        raise ValueError(f"{value!r} is not above 0")
