"""Verifying bfloat16 components on a machine whose ONNX Runtime has no kernels for them.

ONNX Runtime's CPU provider has no bfloat16 products. For verification alone a graph is rewritten: weights and every
value that the graph casts to bfloat16 are rounded exactly as it says, and the products between run in float32.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx.inliner

from .files import sha256

_BF16, _FP32 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


@contextmanager
def emulated_bundle(folder: Path) -> Iterator[Path]:
    """Yield a bundle that the CPU can run: `folder` itself, or a temporary copy with bfloat16 emulated."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    halves = [entry for entry in manifest["components"].values() if entry["precision"] == "bf16"]
    if not halves:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.emulated.", dir=folder.parent) as temporary:
        copy = Path(temporary)
        for entry in manifest["components"].values():  # the graphs are what is run, so engines need not be copied
            if entry["engine"]["file"] != entry["file"]:
                del manifest["files"][entry["engine"]["file"]]
                entry["engine"] = {"backend": "onnxruntime", "file": entry["file"]}
        for name in manifest["files"]:
            shutil.copyfile(folder / name, copy / name)
        for entry in halves:
            file = entry["file"]
            _emulate(folder / file, copy / file)
            entry |= {"precision": "fp32", "emulates": "bf16"}
            for name in (file, f"{file}.data"):
                if (copy / name).exists():
                    size = (copy / name).stat().st_size
                    manifest["files"][name] = {"sha256": sha256(copy / name), "bytes": size}
        (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        yield copy


def _emulate(source: Path, target: Path) -> None:
    """Write to `target` the graph of `source` with bfloat16 rounding kept and float32 arithmetic."""
    model = onnx.inliner.inline_local_functions(onnx.load(source, load_external_data=False))
    onnx.load_external_data_for_model(model, str(source.parent))
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == _BF16:
            values = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        to = next((a for a in node.attribute if node.op_type == "Cast" and a.name == "to"), None)
        if to is not None and to.i == _BF16:
            rounded = node.output[0]
            node.output[0] = f"{rounded}_bf16"
            nodes.append(onnx.helper.make_node("Cast", [node.output[0]], [rounded], to=_FP32))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")
