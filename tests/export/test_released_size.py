"""A model of the released widths, random weights: it builds on a small machine and its engines match eager."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from himar.families.hi_mar.presets import PRESETS

pytestmark = pytest.mark.slow
DEPTHS = {"enc_depth": 4, "dec_depth": 4, "dit_depth": 2, "mlp_depth": 2}
"""A third of B's: exporting takes a minute per dozen blocks, and every block is like the last."""
WHOLE, MEMORY_LIMIT = 0.979e9, 16e9
"""Bytes of B's weights, and what building it may take."""


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
    checkpoint, bundle, config = tmp_path / "b.safetensors", tmp_path / "bundle", tmp_path / "b.json"
    config.write_text(json.dumps({**PRESETS["himar-b"], **DEPTHS}))
    run("himar", "init", "--config", config, "--out", checkpoint)
    share = checkpoint.stat().st_size / WHOLE
    printed, memory = run(
        "himar_export", "build", checkpoint, "--max-batch", "8", "--no-memory", "--out", bundle, "--json"
    )
    checkpoint.unlink()
    imported = run("himar_export", "build", "--help")[1]
    assert memory - imported <= share * (MEMORY_LIMIT - imported)

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
