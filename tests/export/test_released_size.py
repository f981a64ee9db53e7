"""A model of the released size, random weights: it builds on a small machine and its engines match eager."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MEMORY_LIMIT = 16e9


def run(module: str, *arguments: str | Path) -> tuple[str, float]:
    """Run a command in its own process; return what it printed and its peak memory in bytes."""
    code = f"import sys; from {module}.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return printed, usage.ru_maxrss * 1024


def test_himar_b_builds_within_memory_and_matches(tmp_path):
    checkpoint, bundle = tmp_path / "b.safetensors", tmp_path / "bundle"
    run("himar", "init", "--config", "himar-b", "--out", checkpoint)
    printed, memory = run("himar_export", "build", checkpoint, "--max-batch", "8", "--out", bundle, "--json")
    checkpoint.unlink()
    assert memory <= MEMORY_LIMIT

    worst = {}
    for row in json.loads(printed)["comparisons"]:
        name = row["name"].split(":")[0]
        worst[name] = max(worst.get(name, 0), row["relative_l2"])
    assert set(worst) == {"transformer_low", "transformer_high", "mlp_head", "dit_head", "run selftest"}
    assert max(worst.values()) <= 1e-4, worst

    manifest = json.loads((bundle / "manifest.json").read_text())
    named = sum(part["bytes"] for entry in manifest["components"].values() for part in entry["parts"])
    shared = sum(part["shared_bytes"] for entry in manifest["components"].values() for part in entry["parts"])
    stored = manifest["files"]["weights.bin"]["bytes"]
    # Every byte on disk is explained: what is shared stands once, the rest is alignment.
    assert stored == pytest.approx(named - shared / 2, rel=0.01)
    assert shared / 2 > 0.25 * stored
