"""Reads the prompts that a command is given: one by one, and from a file."""

from __future__ import annotations

import json
from pathlib import Path

from himar_kernels.shared.errors import InputError


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file: a JSON list where its name ends in .json, else one a line, blank lines left out.

    Raises InputError: the file is missing, not UTF-8, no JSON list of texts, or holds no prompt.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); write it in UTF-8.") from error
    if path.suffix.lower() == ".json":
        prompts = _listed(text, path)
    else:
        prompts = [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts:
        raise InputError(f"{path} holds no prompt; write one a line, or a JSON list of texts.")
    return prompts


def _listed(text: str, path: Path) -> list[str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); write a list of texts.") from error
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f'{path} holds no JSON list of texts; write ["a red three", "…"].')
    return values
