"""The GPU report ends in its time, says what it left out, keeps what tests printed, and leaves no process behind."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import report as gpu_report
from benchmarks.gpu import section as report_section
from benchmarks.gpu.aims import aims
from benchmarks.gpu.pytest_run import run_within
from benchmarks.gpu.report import Report, figure_models, main
from benchmarks.gpu.section import SectionError, run_section
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli

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
    monkeypatch.setattr("benchmarks.gpu.pytest_run._GRACE", 0.5)
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


def test_a_report_goes_on_with_what_is_missing_and_not_with_another_requests(tmp_path):
    path, ran = tmp_path / "x.json", []
    for _ in range(2):
        report = Report(path, 1, {"model": "digits"})
        report.section("good", lambda: ran.append("good") or {"a": 1})
        report.section("broken", lambda: ran.append("broken") or 1 / 0)
        report.section("unfinished", lambda: ran.append("unfinished") or {"cut_off": True})
    assert ran == ["good", "broken", "unfinished", "broken", "unfinished"]
    with pytest.raises(InputError, match="is the report of other options"):
        Report(path, 1, {"model": "himar-b"})
    path.write_text("{")
    with pytest.raises(InputError, match="is not a report to continue"):
        Report(path, 1, {"model": "digits"})


def test_a_section_is_a_process_whose_end_the_report_survives(tmp_path, monkeypatch):
    found = run_section("environment", {"device": "cpu", "command": ["x"]}, tmp_path, "the environment", 60)
    assert (found["command"], found["python"]) == (["x"], sys.version.split()[0])
    with pytest.raises(SectionError, match=r"exit code 1; .*no-such.log: KeyError: 'nothing'"):
        run_section("nothing", {}, tmp_path, "no such", 60)
    with pytest.raises(SectionError, match="when the time was up"):
        run_section("products", {"device": "cpu"}, tmp_path, "late", 0)
    monkeypatch.setattr(report_section, "run_within", lambda command, log, *rest: log.touch() or {"exit_code": -11})
    with pytest.raises(SectionError, match=r"killed by SIGSEGV.*it printed nothing"):
        run_section("copy", {"device": "cpu"}, tmp_path, "crash", 60)


def measured(seconds: float | None, rate: float) -> dict:
    """A section of latencies: seconds per image, and the rate that the DiT head's engine reached."""
    return {
        "generations": [{"seconds_per_image": {} if seconds is None else {"eager": 0.3, "engines": seconds}}],
        "components": [
            {"name": "mlp_head", "reached": {"flops_per_second": 1.0}},
            {"name": "dit_head", "reached": {"flops_per_second": rate}},
        ],
        "peaks": {"flops_per_second": 800.0},
    }


def test_aims_are_met_or_missed_by_the_figures_measured_at_batch_128():
    content = {
        "onnxruntime at batch 128": measured(0.0801, 480.0),
        "tensorrt at batch 128": measured(0.08, 479.0),
        "tensorrt-rtx at batch 128": {"error": "SectionError: killed by SIGSEGV"},
        "tensorrt at batch 8": measured(0.01, 800.0),
    }
    backends = ("onnxruntime", "tensorrt", "tensorrt-rtx")
    found = aims(content, "himar-b", "fp16", backends)
    assert [each["verdict"] for each in found] == ["missed", "met", "met", "missed", "not measured", "not measured"]
    assert [each["value"] for each in found] == [0.0801, 0.6, 0.08, 479 / 800, None, None]
    assert found[4]["reason"] == "SectionError: killed by SIGSEGV"
    (speed, _) = aims({"tensorrt at batch 128": measured(None, 1.0)}, "himar-b", "bf16", ("tensorrt",))
    assert speed["verdict"] == "not measured" and "outputs differ" in speed["reason"]
    for model, precision in (("himar-b", "fp32"), ("digits", "fp16")):
        assert {each["verdict"] for each in aims(content, model, precision, backends)} == {"not measured"}


def test_aims_are_judged_again_after_the_last_batch(tmp_path, monkeypatch):
    judged = []

    def section(name: str, arguments: dict, *rest: object) -> dict:
        if name == "bundle":
            return {"backends": {"onnxruntime": {"bundle": "x"}}}
        if name == "training":  # what comes after the latencies
            judged.extend(json.loads((tmp_path / "x.json").read_text())["aims"])
        return {"passed": True} if name == "parity" else measured(0.07, 480.0)

    monkeypatch.setattr(gpu_report, "run_section", section)
    options = ("--device", "cpu", "--backend", "onnxruntime", "--no-figure3", "--train-batch", "1")
    content = _report(tmp_path / "x.json", *options, "--batch", "128", "--batch", "256")
    assert list(content["seconds"])[-3:-1] == ["onnxruntime at batch 256", "onnxruntime at batch 128"]
    assert [(each["verdict"], each["value"]) for each in judged] == [("met", 0.07), ("met", 0.6)]
    assert content["aims"] == judged


def test_figure_3_has_the_single_scale_of_a_models_size():
    assert figure_models("himar-l") == ["himar-l", "mar-l"]
    assert figure_models("digits") == ["digits"]
    assert figure_models("himar-b-visual") == ["himar-b-visual", "mar-b"]


def _report(out: Path, *options: str) -> dict:
    main(["--repeats", "3", "--no-tests", "--out", str(out), *options], standalone_mode=False)
    return json.loads(out.read_text())


@pytest.mark.gpu
@pytest.mark.slow
def test_a_report_of_the_digits_has_every_section(tmp_path):
    options = ("--model", "digits", "--batch", "2", "--backend", "onnxruntime", "--train-batch", "4", "--minutes", "20")
    content = _report(tmp_path / "x.json", *options)
    failed = {name: each for name, each in content.items() if isinstance(each, dict) and "error" in each}
    assert failed == {}
    assert content["parity of onnxruntime"]["passed"]
    (generation,) = content["onnxruntime at batch 2"]["generations"]
    assert {"eager", "compiled", "engines"} <= set(generation["seconds_per_image"])
    assert content["figure 3"]["models"]["digits"]["whole"].keys() == {"1", "2", "4", "6", "8"}
    assert all(content[f"training at batch 4, bf16{way}"]["batches"] for way in ("", ", compiled"))


@pytest.mark.gpu
@pytest.mark.slow
def test_every_aim_is_measured(tmp_path):
    """Whether it is met is the report's to say: see docs/benchmarking.md."""
    options = ("--batch", "128", "--backend", "onnxruntime", "--no-figure3", "--train-batch", "32", "--minutes", "30")
    content = _report(tmp_path / "x.json", *options)
    assert content["parity of onnxruntime"]["passed"]
    assert [each["verdict"] in ("met", "missed") for each in content["aims"]] == [True, True]
    speed, share = (each["value"] for each in content["aims"])
    assert speed > 0 and 0 < share < 1.05


def _running(pid: int) -> bool:
    """A killed process may stay as a zombie until its new parent looks at it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1"])
def test_minutes_are_a_finite_number(tmp_path, capsys, minutes):
    assert run_cli(gpu_report.main, ["--device", "cpu", "--minutes", minutes, "--out", str(tmp_path / "x.json")]) == 2
    assert "Invalid value for '--minutes'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
