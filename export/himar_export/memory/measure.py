"""Lets a process of its own measure what a bundle's engines take, as the last step of a build."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def measured_memory(folder: Path, backend: str, precisions: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the key `memory` of a bundle's manifest; None, logged where it is a surprise, where there is none.

    There is none of TensorRT's engines, none of bfloat16, which ONNX Runtime cannot run on a CPU, and none where the
    system has no /proc.
    """
    if backend != "onnxruntime" or "bf16" in precisions.values() or not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, "-m", "himar_export.memory.child", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        log.warning("what the engines take in memory could not be measured: %s", last)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
