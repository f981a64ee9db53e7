"""Many clients at once, bad ones and ones that go away, then SIGTERM: benchmarks/service/load.py, briefly."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp

from benchmarks.service.load import Tally, send
from benchmarks.service.traffic import largest_request

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


def test_an_answer_that_never_comes_is_a_failure() -> None:
    """Its client has not left: it was left alone."""
    tally = Tally()

    async def ask() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=0.2)) as session:
                for leaves in (None, 0.1):
                    assert await send(session, url, replace(largest_request(), leaves=leaves), tally) is None

    asyncio.run(ask())
    assert (tally.failures, tally.left) == (["json: no answer in 0 s"], 1)
