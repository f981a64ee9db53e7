"""What only a GPU can show of the kernels: equal runs, recorded graphs, and no wrong access to memory.

That every kernel gives NumPy's numbers on a GPU is shown by the other test_cuda files: each of their tests also runs
there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from himar_kernels import ImageDraws
from himar_kernels.arithmetic.draws import image_origins
from himar_kernels.families.hi_mar import Chain, Step, chain_table, launches, step_state

pytestmark = pytest.mark.gpu

BATCH, N, C, STEPS = 64, 256, 16, 30
CHAIN = Chain.build(STEPS)


def denoised(recorded: bool) -> np.ndarray:
    """Tokens after a whole chain on a lane of its own; each step launched, or one recorded step replayed."""
    from himar_runtime.queue.cuda.device import CudaDevice

    device = CudaDevice(0)

    def put(array: np.ndarray) -> int:
        address = device.allocate(array.nbytes)
        device.upload(address, array)
        return address

    prediction = np.random.default_rng(0).normal(size=(2 * BATCH, N, C)).astype(np.float32)
    tokens = put(np.zeros((2 * BATCH, N, C), np.float32))
    ranks = put(np.zeros((BATCH, N), np.uint32))
    origins = put(image_origins(ImageDraws(range(11, 11 + BATCH), [3] * BATCH), np.arange(BATCH)))
    state = put(step_state(Step("high", 0, 200, 150, 50, 2.5, STEPS), 1.0))
    walk = {
        "x": put(prediction),
        "initial": put(prediction[:BATCH]),
        "timestep": put(np.zeros(1, np.int64)),
        "timesteps": put(CHAIN.timesteps),
        "chain": put(chain_table(CHAIN)),
        "tokens": tokens,
        "ranks": ranks,
        "origins": origins,
        "state": state,
        "batch": BATCH,
        "halves": 2,
        "N": N,
        "C": C,
    }
    device.launch(launches.ranks(ranks=ranks, origins=origins, phase=1, batch=BATCH, n=N))
    device.launch(launches.start_high(**walk))
    step = launches.dit_step(prediction=put(prediction), fault=put(np.zeros(1, np.uint32)), **walk)
    once = device.record(lambda: device.launch(step)) if recorded else lambda: device.launch(step)
    for _ in range(STEPS):
        once()
    result = np.empty((2 * BATCH, N, C), np.float32)
    device.download(tokens, result)
    return result


def test_two_runs_are_equal_bit_for_bit():
    first = denoised(recorded=False)
    assert np.isfinite(first).all()
    assert np.abs(first).max() > 0
    assert np.array_equal(first, denoised(recorded=False))


def test_a_recorded_step_replayed_is_the_launched_step():
    assert np.array_equal(denoised(recorded=True), denoised(recorded=False))


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool):
    """Every kernel over the small shapes of the other files, in a process of its own."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer, which comes with the CUDA toolkit")
    folder = Path(__file__).parent
    files = sorted(path for path in folder.rglob("test_cuda_*.py") if path != Path(__file__))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "-k", "not large", *files]
    # cuda-python asks the driver for functions that are newer than it; what our own calls return is always checked
    quiet = ["--report-api-errors", "no"] if tool == "memcheck" else []
    command = [sanitizer, "--tool", tool, *quiet, "--error-exitcode", "99", *tests]
    done = subprocess.run(command, cwd=folder.parents[1], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout[-500:]
    assert "skipped" not in done.stdout
    assert "ERROR SUMMARY: 0 errors" in done.stdout + done.stderr or "RACECHECK SUMMARY: 0 hazards" in done.stdout
