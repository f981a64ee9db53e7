"""`himar-export inspect --memory` says what a bundle takes, and a build measures it or leaves it out."""

from __future__ import annotations

import json

import pytest

from himar_export.cli import main
from himar_export.memory.measure import measured_memory
from himar_runtime import Bundle
from himar_runtime.memory.prediction import predict


def test_table_and_json_say_the_same(digits_bundle, capsys) -> None:
    asked = ["inspect", str(digits_bundle), "--memory", "--batch", "8", "--lanes", "2"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = predict(Bundle.open(digits_bundle).manifest, 8, 2)
    assert (found["total"], found["loaded"], found["runs"]) == (expected.total, expected.loaded, expected.runs)
    assert sum(each["loaded"] for each in found["components"]) == found["loaded"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert "8 images at once in 2 lanes" in text and f"{found['total'] / 1e6:.2f} MB" in text
    assert "measured when the bundle was built, by onnxruntime" in text


def test_what_is_not_measured_is_said(hmar_bundle, capsys) -> None:
    assert main(["inspect", str(hmar_bundle), "--memory", "--device", "cuda"]) == 0
    text = capsys.readouterr().out
    assert "no figures" in text and "was not compared with a GPU" in text and "the loop's buffers" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--memory", "--batch", "65"], "--batch is 65, but the engines of"),
        (["--memory", "--cost"], "--cost and --memory are given"),
        (["--lanes", "2"], "--lanes needs --memory"),
        (["--device", "cuda"], "--device needs --memory"),
        (["--memory", "--config", "digits"], "--config needs --cost"),
    ],
)
def test_wrong_use_is_refused(digits_bundle, capsys, options, sentence) -> None:
    assert main(["inspect", str(digits_bundle), *options]) != 0
    assert sentence in capsys.readouterr().err


def test_memory_is_of_a_bundle(capsys) -> None:
    assert main(["inspect", "--memory"]) == 2
    assert "--memory is of a bundle" in capsys.readouterr().err


def test_what_cannot_be_measured_is_left_out(tmp_path, caplog) -> None:
    assert measured_memory(tmp_path, "tensorrt", {"a": "fp16"}) is None
    assert measured_memory(tmp_path, "onnxruntime", {"a": "bf16"}) is None
    assert not caplog.records
    assert measured_memory(tmp_path / "nothing", "onnxruntime", {"a": "fp32"}) is None
    assert "could not be measured" in caplog.text
