"""Describes the served bundle as the one model of OpenAI's list of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...bundle.manifest import MANIFEST_NAME


def model_name(folder: Path) -> str:
    """Return what clients call a bundle: its folder's name, or OWNER/NAME of one in the Hub's local cache."""
    whole = folder.resolve()
    owner_and_name = whole.parent.parent.name.split("--")
    if whole.parent.name == "snapshots" and owner_and_name[0] == "models" and len(owner_and_name) == 3:
        return "/".join(owner_and_name[1:])
    return whole.name


def describe(name: str, folder: Path) -> dict[str, Any]:
    """Return the model as GET /v1/models/NAME answers; it was created when its manifest was written."""
    created = int((folder / MANIFEST_NAME).stat().st_mtime)
    return {"id": name, "object": "model", "created": created, "owned_by": "himar"}
