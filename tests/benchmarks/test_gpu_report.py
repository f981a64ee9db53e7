"""The GPU report ends in its time, says what it left out, keeps what tests printed, and leaves no process behind."""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gpu_report import Report
from report_tests import run_within

# Shells, which begin at once: Python may need seconds to start where other tests keep every core busy.
STUBBORN = "trap '' INT; sleep 600 & echo child $!; wait"
YIELDING = "trap 'echo second; exit' INT; echo first; sleep 600 & wait"


def test_a_command_that_ends_in_time_keeps_its_exit_code_and_its_output(tmp_path):
    log = tmp_path / "log"
    outcome = run_within([sys.executable, "-c", "print('done'); raise SystemExit(3)"], log, 60, tmp_path)
    assert outcome == {"exit_code": 3}
    assert log.read_text() == "done\n"


def test_a_command_that_does_not_end_is_interrupted_and_says_what_it_has(tmp_path):
    log = tmp_path / "log"
    outcome = run_within(["sh", "-c", YIELDING], log, 1, tmp_path)
    assert outcome["exit_code"] is None
    assert 1 <= outcome["stopped_after"] < 9
    assert log.read_text() == "first\nsecond\n"


def test_one_that_ignores_the_interrupt_is_killed_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr("report_tests._GRACE", 0.5)
    log = tmp_path / "log"
    outcome = run_within(["sh", "-c", STUBBORN], log, 1, tmp_path)
    assert outcome["exit_code"] is None
    child = int(log.read_text().split()[1])
    for _ in range(100):
        if not _running(child):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {child} still runs")


def test_sections_after_the_time_are_named_in_the_file(tmp_path):
    report = Report(tmp_path / "x.json", minutes=1)
    assert 0 < report.section("first", lambda: report.seconds_left) <= 60
    report.section("broken", lambda: 1 / 0)
    late = Report(tmp_path / "y.json", minutes=0)
    assert late.section("second", lambda: 1) is None
    assert late.seconds_left == 0
    assert "ZeroDivisionError" in json.loads((tmp_path / "x.json").read_text())["broken"]["error"]
    assert "time given with --minutes was up" in json.loads((tmp_path / "y.json").read_text())["second"]["skipped"]


def _running(pid: int) -> bool:
    """A killed process may stay as a zombie until its new parent looks at it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
