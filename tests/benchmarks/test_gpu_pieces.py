"""Pieces of an hour on a GPU: each one's end is in the record, none leaves a process, and aims follow the figures."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import process as piece_process
from benchmarks.gpu import suites
from benchmarks.gpu.aims import AIMS, aims
from benchmarks.gpu.process import Figures, Piece, run_piece
from benchmarks.gpu.record import Record
from benchmarks.gpu.within import run_within
from himar_kernels import InputError

# Shells, which begin at once: Python may need seconds to start where other tests keep every core busy.
STUBBORN = "trap '' INT; sleep 600 & echo child $!; wait"
YIELDING = "trap 'echo second; exit' INT; echo first; sleep 600 & wait"
PEAKS = Piece("peaks", "peaks", {"device": "cpu", "command": ["x"]})


@pytest.fixture
def record(tmp_path) -> Record:
    return Record(tmp_path / "x.json", {"model": "himar-b", "device": "cuda"})


def test_a_command_that_ends_in_time_keeps_its_exit_code_its_output_and_its_variables(tmp_path):
    log = tmp_path / "log"
    outcome = run_within(["sh", "-c", "echo $WORD; exit 3"], log, 60, tmp_path, {"WORD": "done"})
    assert outcome == {"exit_code": 3}
    assert log.read_text() == "done\n"


def test_a_command_that_does_not_end_is_interrupted_and_says_what_it_has(tmp_path):
    log = tmp_path / "log"
    outcome = run_within(["sh", "-c", YIELDING], log, 1, tmp_path)
    assert outcome["exit_code"] is None
    assert 1 <= outcome["stopped_after"] < 9
    assert log.read_text() == "first\nsecond\n"


def test_one_that_ignores_the_interrupt_is_killed_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.within._GRACE", 0.5)
    log = tmp_path / "log"
    outcome = run_within(["sh", "-c", STUBBORN], log, 1, tmp_path)
    assert outcome["exit_code"] is None
    child = int(log.read_text().split()[1])
    for _ in range(100):
        if not _running(child):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {child} still runs")


def _running(pid: int) -> bool:
    """A killed process may stay as a zombie until its new parent looks at it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_a_piece_that_fails_says_how_and_keeps_its_log(record):
    run_piece(record, Piece("no such", "nothing", {}), 60, whole=True)
    own = record.content["pieces"]["no such"]
    assert own["state"] == "failed" and own["reason"].startswith("exit code 1; ")
    assert own["reason"].endswith("no-such.log: KeyError: 'nothing'")
    assert json.loads(record.path.read_text())["pieces"]["no such"] == own


def test_a_piece_is_a_process_whose_end_the_hour_survives(record, monkeypatch):
    late = {"exit_code": None, "stopped_after": 9.0}
    ends = iter(({"exit_code": -11}, late, late, late, {"exit_code": 0}, {"exit_code": 0}))

    def run(command: list[str], log: Path, seconds: float, folder: Path, environment: dict[str, str]) -> Any:
        assert command[1:3] == ["-m", "benchmarks.gpu.process"] and environment == {}
        log.touch()
        if number == 2:  # a figure came before the time was up
            record.keep("peaks", "copy", {})
        if number > 3:  # it ended by itself, with the beginning of a figure
            record.keep("peaks", "products", {"unfinished": True})
        return next(ends)

    monkeypatch.setattr(piece_process, "run_within", run)
    states = []
    for number, whole in enumerate((True, False, True, True, True, False)):
        run_piece(record, PEAKS, 9.0, whole)
        states.append(record.content["pieces"]["peaks"]["state"])
        if number == 0:
            assert "killed by SIGSEGV" in record.content["pieces"]["peaks"]["reason"]
        if number == 3:
            assert "stopped after 9.0 s; " in record.content["pieces"]["peaks"]["reason"]
    assert states == ["failed", "cut off", "cut off", "too long", "too long", "cut off"]
    assert len(record.content["pieces"]["peaks"]["seconds"]) == 6


def test_figures_are_measured_once_unless_unfinished_and_all_of_one_bundle(record):
    record.begin("calls")
    figures = Figures(record, "calls", time.time() + 60)
    assert figures.lacks("a") and 50 < figures.seconds_left() <= 60
    figures.keep("a", {"unfinished": True})
    assert figures.lacks("a")
    figures.keep("a", {"seconds": 1})
    assert not figures.lacks("a")
    figures.keep_same("bundle", "one")
    figures.keep_same("bundle", "one")
    with pytest.raises(
        InputError, match="the figures of 'calls' are of another bundle, one, not two; measure the piece"
    ):
        figures.keep_same("bundle", "two")
    assert json.loads(record.path.read_text())["pieces"]["calls"]["figures"] == {"a": {"seconds": 1}, "bundle": "one"}


def test_a_record_goes_on_only_as_what_it_is(record):
    record.begin("peaks")
    assert Record(record.path, record.content["asked"]).state("peaks") == "running"
    with pytest.raises(InputError, match="is the record of other options"):
        Record(record.path, {"model": "digits"})
    record.path.write_text("{")
    with pytest.raises(InputError, match="is not a record of an hour on a GPU"):
        Record(record.path, record.content["asked"])


def suite(record: Record, seconds: float) -> Figures:
    record.begin("tests")
    return Figures(record, "tests", time.time() + seconds)


def test_results_of_tests_are_kept_and_those_cut_off_are_unfinished(record, tmp_path):
    file = tmp_path / "test_these.py"
    file.write_text(
        "import pytest, time\n"
        "@pytest.mark.gpu\ndef test_a(): pass\n"
        "@pytest.mark.gpu\ndef test_b(): assert 1 == 2\n"
        "@pytest.mark.gpu\ndef test_c(): time.sleep(600)\n"
    )
    log = str(tmp_path / "log")
    figures = suite(record, 200)
    suites.found_tests(figures, log, [str(file)])
    assert list(record.figures("tests")["files"].values()) == [3]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-v", "-k", "test_a or test_b"]
    suites.run_within([*command, str(file)], Path(log), 60, tmp_path)
    found = suites.pytest_outcome(Path(log).read_text())
    assert found["passed"] == 1 and "1 failed, 1 passed" in found["summary"]
    assert found["not_passed"][0].endswith("test_b - assert 1 == 2")
    assert suites.tests(suite(record, 15 + 6), log, str(file)) is False
    assert record.figures("tests")["tests"]["unfinished"] and figures.lacks("tests")


def test_tests_that_cannot_be_collected_are_an_error(record, tmp_path):
    file = tmp_path / "test_broken.py"
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(RuntimeError, match=r"pytest could not collect the tests: .*exit_code.: 2"):
        suites.found_tests(suite(record, 100), str(tmp_path / "log"), [str(file)])


def test_cpp_programs_find_the_wheels_library_by_the_name_that_they_were_linked_with(tmp_path, monkeypatch):
    library = tmp_path / "libhimar_fused.so"
    library.touch()
    monkeypatch.setenv("HIMAR_FUSED_LIBRARY", str(library))
    for _ in range(2):  # a second call finds the links there
        found = suites.cpp_environment(tmp_path)
    links = Path(found["LD_LIBRARY_PATH"].split(":")[0])
    assert (links / "libonnxruntime.so.1").resolve().name.startswith("libonnxruntime.so.1.")
    assert found["HIMAR_FUSED_LIBRARY"] == str(library)


def content(pieces: dict[str, dict[str, Any]], model: str = "himar-b", device: str = "cuda") -> dict[str, Any]:
    """A record's content: pieces by name, each with its figures, all of them done."""
    made = {name: {"state": "done", "figures": figures, "seconds": [1.0]} for name, figures in pieces.items()}
    return {"asked": {"model": model, "device": device}, "pieces": made}


def head(engines: float, compiled: float | None = None, refused: dict[str, str] | None = None) -> dict[str, Any]:
    seconds = {"engines": engines} | ({} if compiled is None else {"compiled": compiled})
    return {"rows": 256, "seconds": seconds, "refused": refused or {}}


def generation(engines: float, recorded: float, equal: bool = True) -> dict[str, Any]:
    per_image = {"eager": 0.3, "engines": engines, "engines, recorded": recorded}
    return {
        "generation": {"seconds_per_image": per_image, "refused": {}, "bit_equal": {"engines": equal, "eager": False}}
    }


def verdicts(found: list[dict[str, Any]]) -> list[str]:
    return [each["verdict"] for each in found]


def test_aims_are_met_or_missed_by_the_best_figure_of_each():
    memory = {side: {"device": size, "peak": 1} for side, size in (("eager", 4), ("engines", 5))}
    found = aims(
        content(
            {
                "self-test, fp16": {"self-test": {"passed": True, "comparisons": []}},
                "calls, fp16": {"bundle": "x", "dit_head": head(0.0095, 0.011), "mlp_head": head(0.0010)},
                "heads, fp16, in place": {"dit_head, batch 128": head(0.0092), "dit_head, batch 1": head(0.001)},
                "heads, fp16, recorded": {"dit_head, batch 128": head(0.0091), "mlp_head, batch 128": head(0.0007)},
                "generation, fp16, batch 1, paper": generation(1.5, 1.2),
                "generation, fp16, batch 128, paper": generation(0.081, 0.0801),
                "generation, fp16, batch 128, forecast": generation(0.03, 0.04),
                "generation, fp8, batch 128, paper": generation(0.049, 0.06),
                "memory, fp16, batch 128": {"bundle": "x", "memory": memory},
            }
        )
    )
    assert verdicts(found) == ["met", "missed", "missed", "missed", "met", "met", "met", "met", "met", "missed"]
    assert [each["value"] for each in found[:7]] == [0.0091, 0.0091 / 0.011, 0.0007, 0.0801, 0.03, 1.2, 0.049]
    assert found[0]["from"] == "heads, fp16, recorded" and found[-1]["value"] == 1.25


def test_aims_without_a_figure_are_not_measured():
    unfinished = {"generation": {**generation(0.01, 0.01)["generation"], "unfinished": True}}
    found = aims(content({"generation, fp16, batch 128, paper": unfinished, "calls, fp16": {"dit_head": head(1.0)}}))
    assert verdicts(found[:2]) == ["missed", "not measured"] and found[0]["value"] == 1.0
    assert {each["verdict"] for each in found[2:7]} == {"not measured"}
    for other in ({"model": "digits"}, {"device": "cpu"}):
        judged = aims(content({"generation, fp16, batch 1, paper": generation(0.1, 0.1)}, **other))
        assert set(verdicts(judged[: len(AIMS)])) == {"not measured"} and "himar-b on a GPU" in judged[0]["reason"]


def test_outputs_and_bits_are_met_only_when_all_ran_and_missed_when_one_differs():
    whole = content({"calls, fp16": {"mlp_head": head(1.0)}, "generation, fp16, batch 1, paper": generation(1, 1)})
    assert verdicts(aims(whole)[7:9]) == ["met", "met"]
    whole["pieces"]["rows, fp16"] = {"state": "cut off", "figures": {}, "seconds": []}
    (outputs, bits) = aims(whole)[7:9]
    assert outputs["verdict"] == "not measured" and "rows, fp16 (cut off)" in outputs["reason"]
    assert bits["verdict"] == "met"
    whole["pieces"]["calls, fp16"]["figures"]["dit_head"] = head(
        1.0, refused={"engines": "far off", "eager": "overflows"}
    )
    whole["pieces"]["generation, fp16, batch 1, forecast"] = {
        "state": "done", "figures": generation(1, 1, equal=False), "seconds": [],
    }  # fmt: skip
    (outputs, bits) = aims(whole)[7:9]
    assert (outputs["verdict"], outputs["from"]) == ("missed", "calls, fp16: dit_head: far off")
    assert (bits["verdict"], bits["from"]) == ("missed", "generation, fp16, batch 1, forecast: engines")
