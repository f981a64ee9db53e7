"""Lets a process of its own measure what a bundle's engines take, as the last step of a build."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from himar_kernels import EngineError
from himar_runtime import Device
from himar_runtime.engines.ort.session import onnxruntime
from himar_runtime.memory.prediction import GPU
from himar_runtime.queue.cuda.driver import compute_capability

log = logging.getLogger(__name__)


def measured_memory(
    folder: Path, backend: str, precisions: Mapping[str, str], device: str = "cpu"
) -> dict[str, Any] | None:
    """Return the key `memory` of a bundle's manifest; None, logged where it is a surprise, where there is none.

    On a CPU there is none of TensorRT's engines, none of bfloat16, which ONNX Runtime cannot run there, and none where
    the system has no /proc. Of a GPU there is what it has one for here.

    device: where a backend's own engines run here: "cpu" where they do not.
    """
    found: dict[str, Any] = {}
    if backend == "onnxruntime" and "bf16" not in precisions.values() and Path("/proc/self/status").exists():
        found = _measured("child", folder, "take in memory") or {}
    if runs_on_gpu(backend, precisions, device):
        on_gpu = _measured("gpu_child", folder, "take of the GPU's memory")
        if on_gpu is not None:
            found = {"components": {}, **found, GPU: on_gpu}
    return found or None


def runs_on_gpu(backend: str, precisions: Mapping[str, str], device: str) -> bool:
    """Return whether this machine has a GPU that runs the engines."""
    if backend != "onnxruntime":
        return device != "cpu"
    if "int8" in precisions.values() or "CUDAExecutionProvider" not in onnxruntime().get_available_providers():
        return False
    try:
        compute_capability(Device("cuda"))
    except EngineError:
        return False
    return True


def _measured(module: str, folder: Path, what: str) -> dict[str, Any] | None:
    command = [sys.executable, "-m", f"himar_export.memory.{module}", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        log.warning("what the engines %s could not be measured: %s", what, last)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
