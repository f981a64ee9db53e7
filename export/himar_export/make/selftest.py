"""Replays a bundle's self-test; bfloat16 is emulated where no kernel runs it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from himar_export.families.checks import Arrays
from himar_export.graph.emulate import emulated, read_graph
from himar_export.verify.compare import Comparison
from himar_export.verify.verify import SELFTEST_CASE, backend_for, verify
from himar_kernels import VerificationError
from himar_kernels.shared.files import file_sha256
from himar_runtime import Bundle

from .rounding import HalfCalls


def check_selftest(folder: Path, selftest: Arrays, device: str) -> list[Comparison]:
    """Replay a self-test through the bundle in `folder`; return the comparisons, all of which passed.

    device: where the engines run; on the CPU it is the ONNX graphs that are run, bfloat16 in emulation, and fp16 once
    more so (`rounding`). Raises VerificationError naming the worst output, or the layer that fp16 cannot hold.
    """
    if device != "cpu":
        return _passed(verify(Bundle.open(folder), selftest, SELFTEST_CASE, device, backend_for(device)))
    with emulated_bundle(folder) as runnable:
        bundle = Bundle.open(runnable)
        halves = HalfCalls(bundle)
        comparisons = _passed(verify(bundle, selftest, SELFTEST_CASE, device, backend_for(device), halves.watch))
        return [*comparisons, *halves.check()]


def _passed(comparisons: list[Comparison]) -> list[Comparison]:
    failed = [c for c in comparisons if c.passed is False]
    if failed:
        worst = max(failed, key=lambda c: c.relative_l2)
        raise VerificationError(
            f"{worst.name} differs from the eager model by {worst.relative_l2:.2e} (limit {worst.limit:.2e}), so "
            f"the bundle was not kept; build that component with --precision NAME=fp32, or find its wrong layer "
            f"(docs/debugging.md)."
        )
    return comparisons


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
            model = emulated(read_graph(folder / file), (), {}, marked=False)
            onnx.save(model, copy / file, save_as_external_data=True, location=f"{file}.data")
            entry |= {"precision": "fp32", "emulates": "bf16"}
            for name in (file, f"{file}.data"):
                if (copy / name).exists():
                    size = (copy / name).stat().st_size
                    manifest["files"][name] = {"sha256": file_sha256(copy / name), "bytes": size}
        (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        yield copy
