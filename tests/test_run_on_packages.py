"""The command that installs the packages, and the versions that it and `make setup` ask for."""

import re
import subprocess
import sys
from pathlib import Path

from tests.run_on_packages import outcome, runs

CONSTRAINTS = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8")


def test_no_package_of_nvidias_is_pinned():
    # PyTorch from the package index depends on one CUDA release; a pin of another makes the install impossible.
    assert not re.findall(r"^(?:nvidia-|cuda-toolkit).*==.*$", CONSTRAINTS, re.MULTILINE)


def test_an_outcome_names_the_steps_that_succeeded_and_the_one_that_failed():
    def steps():
        yield "install"
        yield "import"
        subprocess.run(["sh", "-c", "echo lost >&2; exit 3"], check=True, capture_output=True, text=True)
        yield "never"

    succeeded, failure = outcome(steps)
    assert succeeded == "install, import"
    assert failure == "sh -c echo lost >&2; exit 3\nlost\n"
    assert outcome(lambda: iter(["install"])) == ("install", "")


def test_a_python_that_does_not_run_is_left_out(tmp_path):
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert runs(sys.executable)
    assert not runs(str(shim)) and not runs(str(tmp_path / "python3.98"))
