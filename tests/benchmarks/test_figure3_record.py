"""Figure 3 goes on with a record only where old and new figures may stand in one table."""

import json
from pathlib import Path

import pytest

from benchmarks.figure3.record import Record, Request, conditions, read_record
from himar_export.bench.environment import environment
from himar_kernels import InputError

REQUEST = Request(configs=["digits"], work=Path("work"))
CPU = {"processor": "one", "versions": {"himar": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.0"}, "date": "then"}
GPU = {**CPU, "gpu": "H100", "versions": {"himar": "0.1.0", "torch": "2.13.0", "onnxruntime-gpu": "1.31.0"}}


def begin(path: Path, values: dict = CPU) -> Path:
    Record(path, REQUEST, 1, values).write()
    return path


def test_it_goes_on_with_the_same_and_keeps_the_newest_environment(tmp_path):
    path = begin(tmp_path / "x.json")
    record = Record(path, REQUEST, 1, {**CPU, "date": "now"})
    assert record.content["environment"]["date"] == "now"


@pytest.mark.parametrize(
    ("threads", "values", "said"),
    [
        (2, CPU, "threads 1, not 2"),
        (1, {**CPU, "processor": "two"}, "processor 'one', not 'two'"),
        (1, {**CPU, "versions": {**CPU["versions"], "torch": "2.14.0"}}, "torch '2.13.0', not '2.14.0'"),
        (1, {**CPU, "versions": {**CPU["versions"], "himar": "0.2.0"}}, "himar '0.1.0', not '0.2.0'"),
        (1, {**CPU, "versions": {**CPU["versions"], "onnxruntime": "1.32.0"}}, "onnxruntime '1.31.0', not '1.32.0'"),
        (2, {**CPU, "processor": "two"}, "threads 1, not 2, and processor 'one', not 'two'"),
    ],
)
def test_other_threads_processors_and_versions_are_refused(tmp_path, threads, values, said):
    path = begin(tmp_path / "x.json")
    with pytest.raises(InputError) as error:
        Record(path, REQUEST, threads, values)
    assert str(error.value) == f"{path} was measured with {said}; choose another --out."


def test_on_a_gpu_its_name_counts_and_either_package_of_onnxruntime(tmp_path):
    path = begin(tmp_path / "x.json", GPU)
    Record(path, REQUEST, 1, {**GPU, "processor": "two"})
    with pytest.raises(InputError, match=r"gpu 'H100', not 'H200'; choose another --out"):
        Record(path, REQUEST, 1, {**GPU, "gpu": "H200"})
    assert conditions(read_record(path))["onnxruntime"] == "1.31.0"


def test_what_a_record_of_before_lacks_is_no_difference(tmp_path):
    path = begin(tmp_path / "x.json")
    content = json.loads(path.read_text())
    del content["threads"], content["environment"], content["request"]["compiled"]
    path.write_text(json.dumps(content))
    assert Record(path, REQUEST, 4, CPU).content["threads"] == 4


def test_every_condition_is_in_a_real_environment():
    found = conditions({"request": {"device": "cpu"}, "threads": 1, "environment": environment("cpu", [])})
    assert set(found) == {"device", "threads", "processor", "himar", "torch", "onnxruntime"}


@pytest.mark.parametrize("text", ["{", "[]", '{"models": {}}', '{"request": {}, "models": []}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x.json is not a record of figure 3 to continue .*; choose another --out"):
        Record(path, REQUEST, 1, CPU)


def test_figures_of_another_bundle_are_refused(tmp_path):
    record = Record(tmp_path / "x.json", REQUEST, 1, CPU)
    record.of("digits", "one")
    with pytest.raises(InputError, match="holds figures of another bundle of digits; choose another --out"):
        record.of("digits", "two")
