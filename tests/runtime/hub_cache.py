"""Bundles as the Hub's local cache has them: every file a link to a blob of its repository."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import onnx


def in_hub_cache(bundle: Path, repository: Path, below: str = ".") -> Path:
    """Move a bundle into a repository of the Hub's local cache, where every file is a link to a blob."""
    folder = repository / "snapshots" / "abc" / below
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    for file in [path for path in bundle.rglob("*") if path.is_file()]:
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        link = folder / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder


def write_weights_apart(bundle: Path, edit_manifest: Any, folder: str = "") -> None:
    """Move a component's graph into a folder of the bundle, and its weights into a file beside it."""
    source, target = bundle / "dit_head.onnx", bundle / folder / "dit_head.onnx"
    target.parent.mkdir(exist_ok=True)
    model = onnx.load(source)
    source.unlink()
    onnx.save(model, target, save_as_external_data=True, location="weights.bin", size_threshold=64)
    graph, weights = (str(target.with_name(name).relative_to(bundle)) for name in ("dit_head.onnx", "weights.bin"))

    def change(manifest: dict[str, Any]) -> None:
        del manifest["files"]["dit_head.onnx"]
        for name in (graph, weights):
            content = (bundle / name).read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        manifest["components"]["dit_head"].update(file=graph, engine={"backend": "onnxruntime", "file": graph})

    edit_manifest(bundle, change)
