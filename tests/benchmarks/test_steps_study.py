"""The study of autoregressive steps: a small run, what goes on from its record, and what it refuses beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies import solvers, steps
from benchmarks.studies.measure import Figures
from benchmarks.studies.record import FIGURES
from benchmarks.studies.study import DEFAULT, read
from himar_kernels import InputError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.sampling import choose_sampling
from himar_kernels.shared.console import run_cli
from himar_runtime import Pipeline

ONE_LOW, ONE_HIGH = "1 + 2 steps", "8 + 1 steps"


@pytest.fixture(scope="module")
def small_run(digits_bundle, tmp_path_factory) -> list[str]:
    """The arguments of a run of ten images of a seed, of the default and one step in either phase, that was done."""
    out = tmp_path_factory.mktemp("steps") / "digits"
    asked = [str(digits_bundle), "--out", str(out), "--images", "10", "--seeds", "1"]
    only = [each for name in (DEFAULT, ONE_LOW, ONE_HIGH) for each in ("--only", name)]
    assert run_cli(steps.main, [*asked, *only]) == 0
    return [*asked, *only]


def record_of(run: list[str]) -> Path:
    return Path(f"{run[2]}.json")


def test_a_small_run_measures_what_it_was_asked_for(small_run) -> None:
    record = json.loads(record_of(small_run).read_text())
    assert list(record["points"]) == [DEFAULT, ONE_LOW, ONE_HIGH] and record["study"] == "steps"
    figures = [points["0"] for points in record["points"].values()]
    assert all(set(each) == set(Figures.__annotations__) and each["images"] == 10 for each in figures)
    assert len({each["distance"] for each in figures}) == 3  # the steps reach the engines
    assert record["flops"][ONE_HIGH] < record["flops"][ONE_LOW] < record["flops"][DEFAULT]
    drawing = record_of(small_run).with_suffix(".png").read_bytes()
    assert drawing.startswith(b"\x89PNG")


def test_the_default_stands_in_both_tables(small_run) -> None:
    low, high = record_of(small_run).with_suffix(".md").read_text().split("\n8 + 2 steps are")
    for table, fixed, name in ((low, "phase high takes 2.", ONE_LOW), (high, "phase low takes 8.", ONE_HIGH)):
        lines = table.splitlines()
        rows = [line.split(" | ")[0] for line in lines if line.startswith("|")]
        assert lines[0].endswith(fixed)
        assert rows[2:] == [f"| {name}", f"| {DEFAULT}", "| 360 real held-out digits"]


def test_it_goes_on_from_its_record_without_measuring_again(small_run, monkeypatch) -> None:
    monkeypatch.setattr(Pipeline, "generate", lambda *_, **__: pytest.fail("it measured again"))
    files = [record_of(small_run).with_suffix(ending) for ending in (".json", ".md", ".png")]
    before = [path.read_bytes() for path in files]
    assert run_cli(steps.main, small_run) == 0
    assert [path.read_bytes() for path in files] == before
    with pytest.raises(pytest.fail.Exception, match="it measured again"):
        run_cli(steps.main, [*small_run, "--only", "2 + 2 steps"])


def test_every_setting_changes_one_phase_of_what_the_digits_can_run() -> None:
    usual = SamplingConfig(8, 2, 2.0, 2.5, "constant", 0.9, 32, 32)
    known = steps.settings()
    assert known[0].name == DEFAULT and len({each.name for each in known}) == len(known) == 10
    assert {each.name for each in steps.LOW_STEPS + steps.HIGH_STEPS} == {each.name for each in known}
    for each in known:
        choose_sampling({DEFAULT: usual}, None, None, each.changes).check_positions(16, 64)
        assert each.changes == {"low_steps": each.low, "high_steps": each.high}
        assert (each.low == steps.LOW) or (each.high == steps.HIGH)
    assert steps.LOW_STEPS[-1].low == 16


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    assert run_cli(steps.main, [str(each) for each in arguments]) == code
    text = capsys.readouterr().err
    assert "unexpected" not in text
    return " ".join(text.split())


def test_records_of_another_study_or_of_other_images_are_left_alone(small_run, capsys) -> None:
    path = record_of(small_run)
    before = path.read_bytes()
    assert "was measured with images 10, not 20; choose another --out." in said(capsys, *small_run, "--images", 20)
    asked = {key: json.loads(before)[key] for key in ("weights", "images", "seeds")}
    with pytest.raises(InputError, match="was measured with study 'steps', not 'solvers'; choose another --out"):
        read(path, solvers.STUDY, asked)
    assert path.read_bytes() == before


@pytest.mark.parametrize("figure", FIGURES)
def test_a_record_that_lacks_a_figure_is_refused(small_run, tmp_path, figure) -> None:
    record: dict[str, Any] = json.loads(record_of(small_run).read_text())
    asked = {key: record[key] for key in ("weights", "images", "seeds")}
    path = tmp_path / "digits.json"
    path.write_text(json.dumps(record))
    assert read(path, steps.STUDY, asked) == record
    del record["points"][ONE_LOW]["0"][figure]
    path.write_text(json.dumps(record))
    with pytest.raises(
        InputError, match=rf"not a record of this study \(KeyError\('{figure}'\)\); choose another --out"
    ):
        read(path, steps.STUDY, asked)


def test_bad_input_is_refused_before_anything_is_written(
    digits_bundle, hmar_digits_bundle, narrow_256_bundle, tmp_path, capsys
) -> None:
    out = ["--out", tmp_path / "new" / "x"]
    text = said(capsys, digits_bundle, *out, "--only", "3 + 3 steps")
    assert "there is no setting '3 + 3 steps'; there are 'default', '1 + 2 steps'" in text
    assert "has no VAE decoder, so it produces no images; build it with --vae." in said(capsys, narrow_256_bundle, *out)
    text = said(capsys, digits_bundle, *out, "--only", ONE_LOW)
    assert "x.json lacks the figures of 'default', which all are compared with; add --only default." in text
    text = said(capsys, hmar_digits_bundle, *out)
    assert "_steps is given, but an HMAR model has no such setting" in text
    assert "Invalid value" in said(capsys, digits_bundle, *out, "--images", 9, code=2)
    assert "Invalid value" in said(capsys, digits_bundle, "--out", "..", code=2)
    assert not (tmp_path / "new").exists()
