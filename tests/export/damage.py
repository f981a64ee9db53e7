"""Copies of bundles in which a weight of one component is wrong, and every hash right."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import onnx

ZEROS, NANS = bytes(4), b"\x00\x00\xc0\x7f"
"""A float32, or two float16, of zero; a float32 that is not a number."""


def damaged_copy(bundle: Path, copy: Path, component: str, weight: str, values: bytes = ZEROS) -> Path:
    """Return `copy`, the bundle with the first half of a component's weight overwritten with these four bytes."""
    shutil.copytree(bundle, copy)
    model = onnx.load(copy / f"{component}.onnx", load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.name == weight)
    place = {entry.key: entry.value for entry in tensor.external_data}
    data = bytearray((copy / "weights.bin").read_bytes()) if place else bytearray(tensor.raw_data)
    start, length = int(place.get("offset", 0)), int(place.get("length", len(tensor.raw_data)))
    data[start : start + length // 8 * 4] = values * (length // 8)
    changed = "weights.bin" if place else f"{component}.onnx"
    if not place:
        tensor.raw_data = bytes(data)
    (copy / changed).write_bytes(bytes(data) if place else model.SerializeToString())
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][changed]["sha256"] = hashlib.sha256((copy / changed).read_bytes()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy
