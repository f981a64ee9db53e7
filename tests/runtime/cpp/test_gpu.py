"""The C++ runtime on a real GPU: `himar_gpu_tests`, which ctest skips where there is none, must run here and pass."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "runtime" / "cpp"


@pytest.mark.gpu
def test_what_only_a_gpu_can_show(built: Path, run: Callable[..., str], tmp_path: Path) -> None:
    run(sys.executable, SOURCES / "tests" / "write_bundles.py", tmp_path)
    said = run(built / "tests" / "gpu" / "himar_gpu_tests", env=os.environ | {"HIMAR_TEST_BUNDLES": str(tmp_path)})
    assert "Status: SUCCESS!" in said
