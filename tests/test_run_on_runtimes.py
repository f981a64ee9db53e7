"""The script that tries other versions of ONNX Runtime and the onnx packages: what it installs, and what it reports."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_on_runtimes", ROOT / "tests" / "run_on_runtimes.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_row_s_packages_have_a_range_and_a_pin_and_its_tests_exist(script):
    for row in script.ROWS.values():
        wanted = script.requirements(row)
        assert [each.split("==")[0] for each in wanted] == list(row.packages)
        assert all(("==" in each) == (row.which != "newest") for each in wanted)
        assert all((ROOT / path).exists() for path in row.tests)


def test_ranges_and_pins_are_read(script):
    project = '[project]\ndependencies = ["a>=1.2"]\n[project.optional-dependencies]\nx = ["b-c>=0.1.16", "b>=3,<4"]\n'
    assert [script.oldest(name, project) for name in ("a", "b", "b-c")] == ["1.2", "3", "0.1.16"]
    assert script.pinned("b", "a==1\nb==2.0.1\nb-c==3\n") == "2.0.1"
    with pytest.raises(SystemExit, match="no lower bound of d"):
        script.oldest("d", project)
    with pytest.raises(SystemExit, match="does not pin d"):
        script.pinned("d", "b==1\n")


def test_a_report_counts_and_names_what_failed(script, tmp_path):
    report = tmp_path / "row.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.a" name="one"/>'
        '<testcase classname="tests.a" name="two"><skipped/></testcase>'
        '<testcase classname="tests.a" name="three"><failure/></testcase>'
        '<testcase classname="tests.a" name="four"><error/></testcase></testsuite></testsuites>'
    )
    outcome = script.read_report(report, "onnxruntime 9", 2.0)
    assert (outcome.passed, outcome.skipped, outcome.failed) == (1, 1, ("tests.a::three", "tests.a::four"))
    text = script.table({"newest": outcome})
    assert "| newest | onnxruntime 9 | 1 | 2 | 1 | 2 |" in text and "newest: tests.a::three" in text


@pytest.mark.parametrize("text", [None, "<testsuites/>"])
def test_a_row_in_which_no_test_ran_has_failed(script, tmp_path, text):
    report = tmp_path / "row.xml"
    if text:
        report.write_text(text)
    assert script.read_report(report, "", 0.0).failed == ("no test ran",)
