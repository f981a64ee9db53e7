"""Keeps what figure 3 was asked for and what was measured, in a file from which an interrupted run continues."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figure3.form import require_form
from himar_kernels import InputError
from himar_kernels.shared.files import write_json


@dataclass(frozen=True)
class Request:
    """What is measured.

    configs: presets or JSON files. steps: of phase high, empty for the figure's. repeats: rounds of each call; an
    interval of a ratio needs 6. shapes: most calls of one series that are timed; whole: whole generations too. minutes:
    start nothing new after them. command: for the environment.
    """

    configs: Sequence[str]
    work: Path
    device: str = "cpu"
    precision: str = "fp32"
    backend: str = "onnxruntime"
    batch: int = 1
    steps: tuple[int, ...] = ()
    repeats: int = 6
    shapes: int = 3
    whole: bool = False
    compiled: bool = False
    threads: int | None = None
    minutes: float = 60.0
    command: Sequence[str] = ()


_SAME = ("device", "precision", "backend", "batch", "repeats", "compiled")
_PACKAGES = ("himar", "torch", "onnxruntime")


class Record:
    """The JSON file: what was asked for, the environment, and what every model was measured at."""

    def __init__(self, path: Path, request: Request, threads: int, environment: Mapping[str, Any]) -> None:
        """Open the file to continue it, or begin it.

        threads: PyTorch's number of them. environment: himar_export.bench.environment. Raises InputError for a damaged
        file, and for one of another request, machine or version: its figures cannot stand beside new ones.
        """
        self.path = path
        asked = {name: getattr(request, name) for name in _SAME}
        begun = {"request": asked, "threads": threads, "environment": dict(environment)}
        self.content: dict[str, Any] = {"models": {}, **begun}
        if path.exists():
            found = read_record(path)
            before, now = conditions(found), conditions(begun)
            other = [name for name, value in now.items() if before.get(name) not in (None, value)]
            if other:
                differences = ", and ".join(f"{name} {before[name]!r}, not {now[name]!r}" for name in other)
                raise InputError(f"{path} was measured with {differences}; choose another --out.")
            self.content = {**found, "threads": threads, "environment": dict(environment)}
        self._end = time.monotonic() + 60 * request.minutes
        self.cut_off = False

    def of(self, model: str, bundle: str) -> dict[str, Any]:
        """Return a model's entry. Raises InputError when the file's figures are of another bundle."""
        entry = self.content["models"].setdefault(
            model, {"bundle": bundle, "calls": [], "host": {}, "whole": {}, "points": []}
        )
        if entry["bundle"] != bundle:
            raise InputError(f"{self.path} holds figures of another bundle of {model}; choose another --out.")
        return entry

    def time_is_up(self) -> bool:
        """Say whether nothing new may start, and note that something was left out."""
        self.cut_off = self.cut_off or time.monotonic() > self._end
        return self.cut_off

    def write(self) -> None:
        """Write the file in one move, into a folder that is made if it is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.content)


def read_record(path: Path) -> dict[str, Any]:
    """Return what a record's file holds. Raises InputError where it is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        require_form(content)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path} is not a record of figure 3 to continue ({error!r}); choose another --out."
        ) from error
    return content


def conditions(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all figures of a record have in common: options, threads, the device's name, and versions.

    Records of before lack some, which are left out.
    """
    environment = content.get("environment", {})
    versions = environment.get("versions", {})
    device = "gpu" if "gpu" in environment else "processor"
    found = {name: content["request"].get(name) for name in _SAME}
    found |= {"threads": content.get("threads"), device: environment.get(device)}
    found |= {name: versions.get(name, versions.get(f"{name}-gpu")) for name in _PACKAGES}
    return {name: value for name, value in found.items() if value is not None}
