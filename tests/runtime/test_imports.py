"""A service installs the runtime without torch: generating must not need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_generating_never_imports_torch(bundle_path: Path) -> None:
    code = f"""
import sys
from himar_runtime import Pipeline
Pipeline.load({str(bundle_path)!r}).generate([1])
sys.stdout.write(str([m for m in ('torch', 'onnx', 'himar', 'himar_export') if m in sys.modules]))
"""
    assert _run(code) == "[]"
