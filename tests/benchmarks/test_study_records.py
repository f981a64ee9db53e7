"""The studies of digits refuse, before they measure, what they could not go on with; the file stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies import ablation, ablation_runs, precisions, solver_spacing
from benchmarks.studies import measure as digits_measure
from benchmarks.studies import record as study_record
from benchmarks.studies import solvers as solver_study
from benchmarks.studies import study as one_bundle_study
from benchmarks.studies.solvers_settings import trials
from benchmarks.studies.study import DEFAULT
from himar.families.hi_mar.presets import VARIANTS
from himar_kernels import ConfigError, InputError
from himar_kernels.shared.console import run_cli
from himar_runtime import Bundle

FIGURES = {"images": 10, "distance": 30.0, "precision": 0.7, "recall": 0.6, "recognised": 0.9}
BAD = ["{", "[]", "7", "null", '{"points": {}}']


class Judge:
    """Measures nothing."""

    def figures(self, images: Any, labels: Any) -> Judge:
        return self

    def held_out(self) -> Judge:
        return self

    def to_dict(self) -> dict[str, float]:
        return dict(FIGURES)


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_measure, "Judge", Judge)


def said(capsys: pytest.CaptureFixture[str], command: Any, *arguments: object, code: int = 1) -> str:
    """Return what a refused command says."""
    assert run_cli(command, [str(each) for each in arguments]) == code
    text = capsys.readouterr().err
    assert "unexpected" not in text
    return text


def solver_record(bundle: Path, path: Path, **changes: Any) -> str:
    weights = Bundle.open(bundle).manifest.provenance["checkpoint"]["sha256"]
    known = {"study": "solvers", "weights": weights, "images": 300, "seeds": 1, "seconds": {}, "held_out": FIGURES}
    path.write_text(json.dumps({**known, "points": {DEFAULT: {"0": FIGURES}}, **changes}))
    return path.read_text()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"images": 200}, "was measured with images 200, not 300; choose another --out."),
        ({"seeds": 3}, "was measured with seeds 3, not 1; choose another --out."),
        ({"weights": "ab"}, "was measured with weights 'ab', not '"),
        ({"study": "steps"}, "was measured with study 'steps', not 'solvers'; choose another --out."),
        ({"points": 3}, "is not a record of this study (TypeError("),
        ({"points": {DEFAULT: {"0": {**FIGURES, "recall": "0.6"}}}}, "is not a record of this study (TypeError("),
        ({"seconds": {DEFAULT: None}}, "is not a record of this study (TypeError("),
    ],
)
def test_solver_study_leaves_other_records_alone(digits_bundle, tmp_path, capsys, changes, found) -> None:
    path = tmp_path / "v1.2.json"
    before = solver_record(digits_bundle, path, **changes)
    text = said(capsys, solver_study.main, digits_bundle, "--out", tmp_path / "v1.2", "--seeds", 1)
    assert f"{path} {found}" in text
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", BAD)
def test_what_is_no_record_is_one_sentence(digits_bundle, tmp_path, capsys, content) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    text = said(capsys, solver_study.main, digits_bundle, "--out", tmp_path / "x")
    assert f"{path} is not a record of this study" in text and "choose another --out" in text
    assert path.read_text() == content


def test_solver_study_refuses_a_table_without_the_default_or_without_what_is_timed(digits_bundle, tmp_path, capsys):
    other, out = trials()[1].name, tmp_path / "new" / "x"
    asked = [digits_bundle, "--out", out, "--seeds", 1]
    text = said(capsys, solver_study.main, *asked, "--only", other)
    assert f"{out}.json lacks the figures of 'default', which all are compared with; add --only default." in text
    text = said(capsys, solver_study.main, *asked, "--time", 1)
    assert f"{out}.json lacks the figures of 'default'; run the same command without --time first." in text
    text = said(capsys, solver_study.main, *asked, "--time", 1, "--only", other)
    assert "times are shares of the default's: add --only default." in text
    assert not out.parent.exists()
    solver_record(digits_bundle, tmp_path / "x.json")
    text = said(capsys, solver_study.main, digits_bundle, "--out", tmp_path / "x", "--seeds", 1, "--time", 1)
    assert f"lacks the figures of {other!r}; run the same command without --time first." in text


def test_solver_study_keeps_the_whole_name_of_out(digits_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(one_bundle_study, "flops", lambda *_: 1e9)
    solver_record(digits_bundle, tmp_path / "v1.2.json")
    asked = [str(digits_bundle), "--out", str(tmp_path / "v1.2"), "--seeds", "1", "--only", DEFAULT]
    assert run_cli(solver_study.main, asked) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"v1.2.json", "v1.2.md", "v1.2.png"}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (solver_study.main, ["--out", ""]),
        (solver_study.main, ["--out", ".."]),
        (solver_study.main, ["--out", "x", "--images", 9]),
        (solver_study.main, ["--out", "x", "--images", 100_001]),
        (solver_study.main, ["--out", "x", "--threads", 100_000]),
        (solver_spacing.main, ["--images", 9]),
    ],
)
def test_values_that_make_no_sense_are_wrong_usage(tmp_path, capsys, command, options) -> None:
    assert "Invalid value" in said(capsys, command, tmp_path, *options, code=2)


@pytest.mark.parametrize("options", [["--out", ""], ["--out", "x", "--images", 9], ["--out", "x", "--threads", 2000]])
def test_the_study_of_precisions_and_ablation_too(tmp_path, capsys, options) -> None:
    assert "Invalid value" in said(capsys, precisions.main, tmp_path, tmp_path, *options, code=2)
    assert "Invalid value" in said(capsys, ablation.main, *options, code=2)


def test_bundles_without_a_decoder_are_refused(narrow_256_bundle, tmp_path, capsys) -> None:
    expected = f"{narrow_256_bundle} has no VAE decoder, so it produces no images; build it with --vae."
    assert expected in said(capsys, solver_study.main, narrow_256_bundle, "--out", tmp_path / "x")
    assert expected in said(capsys, precisions.main, narrow_256_bundle, narrow_256_bundle, "--out", tmp_path)
    assert expected in said(capsys, solver_spacing.main, narrow_256_bundle)


def test_bundles_of_one_precision_are_not_compared(digits_bundle, digits_bf16_bundle, tmp_path, capsys) -> None:
    expected = f"{digits_bundle} is in fp32 throughout; give a bundle of another precision there."
    assert expected in said(capsys, precisions.main, digits_bundle, digits_bundle, "--out", tmp_path)
    assert precisions._precision(Bundle.open(digits_bundle), Bundle.open(digits_bf16_bundle)) == "bf16"
    with pytest.raises(InputError, match="has networks in bf16; give the fp32 bundle there"):
        precisions._precision(Bundle.open(digits_bf16_bundle), Bundle.open(digits_bundle))


def test_the_study_of_precisions_goes_on_with_its_own_records_alone(tmp_path) -> None:
    path, asked = tmp_path / "int8.json", {"bundles": {"fp32": "a", "int8": "b"}, "images": 300}
    assert precisions._read(path, asked, 1) == {**asked, "points": {}}
    points = {"default": {seed: {"fp32": FIGURES, "int8": FIGURES, "levels_apart": 1.0} for seed in ("0", "1")}}
    path.write_text(json.dumps({**asked, "points": points}))
    assert precisions._read(path, asked, 3)["points"] == points
    with pytest.raises(InputError, match=r"was measured with 2 seeds, not 1; ask for more or choose another --out"):
        precisions._read(path, asked, 1)
    with pytest.raises(InputError, match="was measured with images 300, not 200; choose another --out"):
        precisions._read(path, {**asked, "images": 200}, 3)
    for content in (*BAD, json.dumps({**asked, "points": {"default": {"x": points["default"]["0"]}}})):
        path.write_text(content)
        with pytest.raises(InputError, match=r"is not a record of this study \(.*; choose another --out"):
            precisions._read(path, asked, 3)


def test_ablation_refuses_reports_and_results_of_another_budget_before_it_trains(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(ablation_runs.Bench, "open", lambda: pytest.fail("it would have trained"))
    path, variant = tmp_path / "ablation.json", next(iter(VARIANTS))
    asked = ["--out", tmp_path, "--runs", tmp_path / "runs", "--steps", 10, "--seeds", 1]
    run = {"variant": variant, "seed": 0, "budget": {"steps": 10, "batch": 32, "images": 300}}
    for content, expected in (
        ("{", "is not a record of this study"),
        ('{"runs": [{"variant": []}]}', "is not a record of this study"),
        (json.dumps({"runs": [{**run, "budget": {"steps": 9}}]}), "is the report of another budget, {'steps': 9}, not"),
        (json.dumps({"runs": [{**run, "seed": 2}]}), f"has {variant} with seed 2, which would be lost"),
    ):
        path.write_text(content)
        text = said(capsys, ablation.main, *asked)
        assert f"{path} {expected}" in text and "choose another --out" in text
        assert path.read_text() == content
    path.unlink()
    folder = tmp_path / "runs" / f"{variant}-seed0"
    folder.mkdir(parents=True)
    for content, expected in (("{", "is not a result of a run"), ("{}", "was made with variant = None")):
        (folder / "result.json").write_text(content)
        text = said(capsys, ablation.main, *asked)
        assert expected in text and "choose another --runs" in text


def test_a_run_s_result_without_figures_is_refused(tmp_path) -> None:
    budget = ablation_runs.Budget(10, 32, 300)
    result = {**ablation_runs._identity("visual", 0, budget), "parameters": 7, "figures": {"own": FIGURES}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(ConfigError, match=r"lacks figures of the run \(KeyError\('short'\)\); remove it"):
        ablation_runs.finished_run(tmp_path, "visual", 0, budget)
    result["figures"]["short"] = FIGURES
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert ablation_runs.finished_run(tmp_path, "visual", 0, budget) is not None


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), [1]])
def test_numbers_are_finite_ones(value) -> None:
    with pytest.raises(TypeError, match="not a finite number"):
        study_record.require_numbers({"x": value}, "x")
