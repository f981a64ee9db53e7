"""Twenty-four clients of one image on a GPU: a call of many takes little longer than a call of one."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from himar_runtime.bench_server.cli import main
from tests.runtime.on_gpu import INSTALLED
from tests.runtime.service.conftest import PYTHON

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu_bundle(build_digits: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not INSTALLED["onnxruntime"]:
        pytest.skip("onnxruntime-gpu is not installed here")
    return build_digits(tmp_path_factory.mktemp("gpu") / "digits", "--fp16", "--max-batch", "64")


def images_per_second(server: Any, clients: int) -> float:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main([f"http://127.0.0.1:{server.port}", "--concurrency", str(clients), "--requests", "192", "--json"])
    report = json.loads(said.getvalue())
    assert code == 0, report["reasons"]
    return float(report["images_per_second"])


def test_batches_answer_six_times_as_many(command: list[str], start_server: Any, gpu_bundle: Path) -> None:
    if command != PYTHON:
        pytest.skip("himar-bench-server measures both alike; one is enough")
    found = {}
    for most in (1, 64):
        server = start_server(gpu_bundle, "--device", "cuda:0", "--max-batch", str(most), "--queue", "64")
        images_per_second(server, 24)  # engines and kernels settle
        found[most] = images_per_second(server, 24)
        assert server.end() == 0
    assert found[64] >= 6 * found[1], found
