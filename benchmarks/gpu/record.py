"""The record of an hour on a GPU: one JSON file, by piece its state and its figures, written anew with every figure.

    {"schema": 1, "asked": {…}, "pieces": {NAME: {"state": …, "figures": {…}, "seconds": [of every try]}}, "aims": […]}

A piece is "waiting" until its turn comes, and "running" while its process works, so that one that a crash or the end
of a machine cut off is told by it. Then it is "done", "cut off" (its time was up), "failed", "missing" (something that
it needs is not here: its "reason" says what), or "too long" (it had all minutes of a call and kept no figure). A figure
whose value has "unfinished" is measured again; all others never are, unless their piece is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from himar_kernels import InputError
from himar_kernels.shared.files import write_json

SCHEMA = 1
UNFINISHED = "unfinished"
SETTLED = ("done", "failed", "too long")
"""States that a later call leaves as they are."""


class Record:
    """The file of one hour; its processes take turns at it."""

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Begin a record, or continue the one at `path`.

        Raises InputError for one that was asked for with other options or on another device, and for a damaged one.
        """
        self.path = path
        self.content: dict[str, Any] = {"schema": SCHEMA, "asked": dict(asked), "pieces": {}, "aims": []}
        if path.exists():
            found = read_record(path)
            if found["asked"] != self.content["asked"]:
                raise InputError(f"{path} is the record of other options, {found['asked']}; choose another --out.")
            self.content = found

    def reread(self) -> None:
        """Take over what a piece's process wrote."""
        self.content = read_record(self.path)

    def state(self, piece: str) -> str | None:
        """Return a piece's state; None where it never ran."""
        return self._piece(piece).get("state")

    def figures(self, piece: str) -> Mapping[str, Any]:
        """Return a piece's figures until now."""
        found: Mapping[str, Any] = self._piece(piece).get("figures", {})
        return found

    def plan(self, piece: str) -> None:
        """Name a piece that is left for later; what it has stays."""
        self.content["pieces"].setdefault(piece, {"state": "waiting", "figures": {}, "seconds": []})
        self._write()

    def begin(self, piece: str) -> None:
        """Say that a piece runs."""
        own = self.content["pieces"].setdefault(piece, {"figures": {}, "seconds": []})
        own.pop("reason", None)
        own["state"] = "running"
        self._write()

    def keep(self, piece: str, name: str, value: Any) -> None:
        """Keep a figure of a piece that runs."""
        self.content["pieces"][piece]["figures"][name] = value
        self._write()

    def end(self, piece: str, state: str, reason: str | None = None, seconds: float | None = None) -> None:
        """Say how a piece ended, why it did not end well, and how long it took."""
        own = self.content["pieces"][piece]
        own["state"] = state
        if reason is not None:
            own["reason"] = reason
        if seconds is not None:
            own["seconds"].append(round(seconds, 1))
        self._write()

    def judge(self, aims: list[dict[str, Any]]) -> None:
        """Keep what was judged."""
        self.content["aims"] = aims
        self._write()

    def forget(self, pieces: Collection[str]) -> None:
        """Drop pieces with their figures, to be measured again. Raises InputError for one that the record lacks."""
        unknown = sorted(set(pieces) - self.content["pieces"].keys())
        if unknown:
            known = ", ".join(self.content["pieces"]) or "none yet"
            raise InputError(f"{self.path} has no piece {unknown[0]!r} to measure again; it has {known}.")
        for piece in pieces:
            del self.content["pieces"][piece]
        if pieces:
            self._write()

    def _piece(self, piece: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.content["pieces"].get(piece, {})
        return found

    def _write(self) -> None:
        write_json(self.path, self.content)


def read_record(path: Path) -> dict[str, Any]:
    """Return a record's content; InputError where the file is none, or of another schema."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        schema, whole = found["schema"], {"asked", "pieces", "aims"} <= found.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a record of an hour on a GPU ({error!r}); choose another.") from error
    if schema != SCHEMA or not whole:
        raise InputError(
            f"{path} is a record of schema {schema!r}, and this version reads {SCHEMA} with all its parts; choose "
            f"another, or read it with the version that wrote it."
        )
    assert isinstance(found, dict)
    return found


def unfinished(value: Any) -> bool:
    """Whether a figure is only the beginning of one."""
    return isinstance(value, Mapping) and bool(value.get(UNFINISHED))
