"""Many clients at once, bad ones and ones that go away, then SIGTERM: benchmarks/service/load.py, briefly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_accepted_request_is_answered_under_load(command: list[str], bundle_path: Path, tmp_path: Path) -> None:
    server = command[0] if len(command) == 1 else "python"
    options = [
        "--requests",
        "150",
        "--warm-up",
        "8",
        "--bad",
        "0.2",
        "--leave",
        "0.2",
        "--server",
        server,
        "--log",
        tmp_path / "log",
    ]
    run = [sys.executable, "-m", "benchmarks.service.load", bundle_path, *options, "--json"]
    done = subprocess.run(
        [str(part) for part in run], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "log").read_text()
    report = json.loads(done.stdout)
    assert report["failures"] == []
    assert sum(report["outcomes"].values()) >= 100
    assert report["outcomes"]["200"] > 40
    assert report["images_compared"] > 0 and report["worst_pixel"] <= 1
    assert report["compared_alone"] > report["images_compared"]
    assert report["drain"]["before SIGTERM: 200"] > 0 and report["drain"]["exit code"] == 0
