"""Replays a bundle's self-test; bfloat16 is emulated where no kernel runs it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner

from himar_export.families.checks import Arrays
from himar_export.families.family import ExportFamily
from himar_export.graph.precision_choice import Precision
from himar_export.verify.compare import Comparison
from himar_export.verify.verify import SELFTEST_CASE, backend_for, verify
from himar_kernels import VerificationError
from himar_kernels.shared.files import file_sha256
from himar_runtime import Bundle


def check_selftest(
    folder: Path,
    family: ExportFamily,
    selftest: Arrays,
    vae: Any,
    precisions: Mapping[str, Precision],
    fp32_layers: Mapping[str, Sequence[str]],
    device: str,
) -> list[Comparison]:
    """Replay a self-test through the bundle in `folder`; return the comparisons, all of which passed.

    device: where the engines run; on the CPU it is the ONNX graphs that are run, bfloat16 in emulation. Raises
    VerificationError naming the worst output.
    """
    with emulated_bundle(folder) if device == "cpu" else nullcontext(folder) as runnable:
        comparisons = verify(Bundle.open(runnable), selftest, SELFTEST_CASE, device, backend_for(device))
    if device == "cpu":
        comparisons += family.check_rounding(vae, precisions, fp32_layers, selftest)
    failed = [c for c in comparisons if c.passed is False]
    if failed:
        worst = max(failed, key=lambda c: c.relative_l2)
        raise VerificationError(
            f"{worst.name} differs from the eager model by {worst.relative_l2:.2e} (limit {worst.limit:.0e}), so "
            f"the bundle was not kept; build that component with --precision NAME=fp32, or find its wrong layer "
            f"(docs/debugging.md)."
        )
    return comparisons


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
            (copy / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        for entry in halves:
            file = entry["file"]
            _emulate(folder / file, copy / file)
            entry |= {"precision": "fp32", "emulates": "bf16"}
            for name in (file, f"{file}.data"):
                if (copy / name).exists():
                    size = (copy / name).stat().st_size
                    manifest["files"][name] = {"sha256": file_sha256(copy / name), "bytes": size}
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
