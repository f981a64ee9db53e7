"""Measures each side's peak memory in a process of its own that loads, generates once and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from himar_kernels import EngineError

from .measurement import EAGER, ENGINES
from .workload import SEED, Sources, Workload


@dataclass(frozen=True)
class Memory:
    """Bytes of a side's process.

    imported: resident once its libraries are imported, before weights. peak: the most that was resident. device: what
    the GPU's driver has given out after the generation beyond what it had before the weights, without the process's
    own context; the allocators keep what they had at their peak. allocated: PyTorch's own peak in it. None on a CPU.
    """

    imported: int
    peak: int
    device: int | None = None
    allocated: int | None = None


def peak_memory(sources: Sources, workload: Workload, batch: int, threads: int) -> dict[str, Memory]:
    """Generate `batch` images once on either side, each in a process of its own; EngineError when one fails."""
    asked = {
        "bundle": str(sources.bundle),
        "checkpoint": str(sources.checkpoint),
        "config": sources.config,
        "vae": None if sources.vae is None else str(sources.vae),
        "weights": sources.weights,
        "device": sources.device,
        "threads": threads,
        "labels": workload.labels(batch),
        "seed": SEED,
        "sampling": workload.sampling.to_dict(),
        "precisions": dict(workload.eager_precisions),
    }
    return {side: _child({**asked, "side": side}) for side in (EAGER, ENGINES)}


def _child(asked: dict[str, object]) -> Memory:
    command = [sys.executable, "-m", "himar_export.bench.memory_child", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"the process that measures the memory of {asked['side']} failed: {lines[-1]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))
