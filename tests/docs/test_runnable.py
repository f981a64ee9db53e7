"""The blocks that a page marks as runnable run, one after the other in one shell, as a reader would type them."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Block, blocks, pages

RUNNABLE = [page for page in pages() if any(block.runnable for block in blocks(page))]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def script(marked: list[Block], port: int) -> str:
    """The blocks as one script for bash, which stops at the first command that fails and leaves no server behind."""
    parts = ["set -em", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for block in marked:
        code = re.sub(r"\b8000\b", str(port), block.code)
        parts.append(f"echo '--- {block.place}' >&2")
        parts.append(f"python - <<'PYTHON'\n{code}PYTHON" if block.language == "python" else code)
    return "\n".join(parts)


def test_both_tutorials_are_runnable():
    assert {"docs/tutorials/service.md", "docs/tutorials/training.md"} <= set(RUNNABLE)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE)
def test_runnable_blocks_run(page, tmp_path):
    marked = [block for block in blocks(page) if block.runnable]
    (tmp_path / "himar" / "himar").mkdir(parents=True)
    (tmp_path / "himar" / "himar" / "weights").symlink_to(ROOT / "himar" / "himar" / "weights")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script(marked, free_port())],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,  # a minute on two quiet cores
    )
    assert done.returncode == 0, f"{page}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    for name in re.findall(r"(?:--out|-o) ([\w./-]+)", " ".join(block.code for block in marked)):
        assert (tmp_path / name).exists(), f"{page} left no {name}"


def test_a_block_that_fails_stops_the_script():
    blocks_of_two = [
        Block("p.md", 1, "python", "raise SystemExit(3)\n", True),
        Block("p.md", 5, "sh", "echo on\n", True),
    ]
    done = subprocess.run(["bash", "-c", script(blocks_of_two, 1)], capture_output=True, text=True)
    assert done.returncode == 3 and "on" not in done.stdout
