"""Keeps the parts of one long run in a folder: a note says which run they are of, so that two runs never mix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import refusal, write_json

RUN_FILE = "run.json"


def claim_folder(folder: Path, run: Mapping[str, Any]) -> None:
    """Write what a run is into an empty or missing folder, or check that the folder is this run's.

    run: plain values, all that decides what the parts hold. Raises InputError for another run's folder, one that holds
    parts (names that begin with "part-") of nobody knows what, or one that cannot be written.
    """
    path = folder / RUN_FILE
    if not path.exists():
        if any(folder.glob("part-*")):
            raise InputError(f"{folder} holds parts but no {RUN_FILE}; delete it.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(refusal(folder, error)) from error
        write_json(path, run)
    require_same_run(folder, run)


def require_same_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Raise InputError, naming the first value that differs, unless a folder holds parts of this run."""
    path = folder / RUN_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {RUN_FILE}; let every shard make its images first.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete {folder} or choose another --out.") from error
    wanted = json.loads(json.dumps(run))
    for name, value in wanted.items():
        if not isinstance(found, dict) or found.get(name) != value:
            raise InputError(f"{folder} holds parts of a run with another {name}; delete it or choose another --out.")
