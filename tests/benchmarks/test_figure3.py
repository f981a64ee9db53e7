"""Figure 3: what is composed from single calls is what a generation does, and only what agrees is kept."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.figure3 import measure as figure3_measure
from benchmarks.figure3 import ratios as figure3_ratios
from benchmarks.figure3 import run as figure3
from benchmarks.figure3.calls import calls_of, chosen, composed, weights_of
from benchmarks.figure3.host import Call, idle_eager, idle_engines
from benchmarks.figure3.points import HIGH_STEPS, points_of
from benchmarks.figure3.rows import relative, rows_of, seconds_of
from benchmarks.figure3.tables import markdown
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.presets import vary
from himar_export.bench.generation import run_engines
from himar_export.bench.measurement import Work, measure
from himar_export.bench.timing import Side
from himar_export.bench.workload import require_gpu
from himar_export.families.hi_mar.bench.eager import run_eager
from himar_export.families.hi_mar.phases import model_info
from himar_kernels import EngineError, InputError, VerificationError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.shared.console import run_cli
from himar_runtime import Bundle, Device, Pipeline, load_networks

SETTINGS = [
    SamplingConfig(low_steps=5, high_steps=3, low_diffusion_steps=4, high_diffusion_steps=5),
    SamplingConfig(low_steps=16, high_steps=8, low_diffusion_steps=2, high_diffusion_steps=3, high_guidance=1.0,
                   guidance_schedule="constant"),
]  # fmt: skip


@pytest.mark.parametrize("variant", [None, "single-scale", "dit-both", "visual"])
@pytest.mark.parametrize("sampling", SETTINGS)
def test_the_calls_that_are_counted_are_those_that_the_eager_loop_makes(variant, sampling):
    values = read_config("digits")
    model = HiMAR(resolve(values if variant is None else vary(values, variant), {})).eval()
    made: Counter[Call] = Counter()
    run_eager(idle_eager(model, None, lambda call: made.update([call])), [1, 2, 3], sampling)
    assert calls_of(model_info(model.config), sampling, 3, False) == made


def test_the_calls_that_are_counted_are_those_of_the_engines_loop(digits_bundle):
    bundle = Bundle.open(digits_bundle)
    made: Counter[Call] = Counter()
    model = bundle.manifest.model
    networks = idle_engines(load_networks(bundle, Device("cpu"), 1), model, lambda call: made.update([call]))
    for sampling in SETTINGS:
        made.clear()
        run_engines(Pipeline(bundle, networks), [0] * 9, sampling)
        assert calls_of(model, sampling, 9, True) == made
    assert made[Call("vae_decoder", 8)] == made[Call("vae_decoder", 1)] == 1


def line(call: Call) -> float:
    """Seconds that grow with a call's size, other ones for every component."""
    return len(call.component) + 0.25 * call.known + (0.5 * call.rows if "head" in call.component else call.rows)


def test_composed_seconds_are_the_sum_over_all_calls():
    config = resolve(read_config("himar-b"), {})
    (point,) = points_of("himar-b", config, (4,))
    calls = calls_of(model_info(config), point.sampling, 8, True)
    truth = {
        name: sum(count * line(call) for call, count in calls.items() if call.component == name)
        for name in ("transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder")
    }
    for most in (1000, 3, 2):
        timed = chosen(calls, most)
        assert composed(calls, {call: line(call) for call in timed}) == pytest.approx(truth, rel=1e-12)
    assert set(weights_of(calls, list(calls)).items()) == set(calls.items())
    assert len(chosen(calls, 2)) < len(chosen(calls, 3)) < len(chosen(calls, 1000)) == len(calls)
    with pytest.raises(KeyError):
        composed(calls, {Call("dit_head", 16): 1.0})


def test_points_are_the_papers_and_steps_that_a_model_lacks_are_refused():
    config = resolve(read_config("himar-b"), {})
    points = points_of("himar-b", config, ())
    assert tuple(point.steps for point in points) == HIGH_STEPS
    assert [point.published for point in points] == [0.13, 0.18, 0.285, 0.39, 0.50]
    assert points[0].sampling == replace(config.default_sampling, high_steps=1)
    mar = points_of("mar-b", resolve(read_config("mar-b"), {}), ())
    assert {point.steps: point.published for point in mar}[256] == 0.53
    with pytest.raises(InputError, match="digits has 64 positions in phase high; it cannot take 65 steps"):
        points_of("digits", resolve(read_config("digits"), {}), (65,))


def record(seconds: float) -> dict:
    """A record of two models, the engines twice as fast and all of it as slow as `seconds` says."""
    call = {"component": "dit_head", "rows": 4, "known": 0}
    entry = {
        "to": "latents",
        "points": [{"steps": 2, "published": 0.18, "calls": [{**call, "count": 10}]}],
        "calls": [{**call, "seconds": {"eager": [seconds] * 3, "engines": [seconds / 2] * 3}}],
        "host": {"2": {"eager": 4 * seconds, "engines": seconds}},
        "whole": {},
    }
    single = {**entry, "points": [{**entry["points"][0], "steps": 256, "published": 0.53}]}
    single["whole"] = {"256": {"seconds": {"eager": [8.0] * 3, "engines": [2.0] * 3}}}
    single["host"] = {"256": entry["host"]["2"]}
    return {
        "request": {"device": "cpu", "precision": "fp32", "backend": "onnxruntime", "batch": 2},
        "environment": {"processor": "a processor", "command": ["python", "figure3.py"]},
        "threads": 2,
        "models": {"himar-b": entry, "mar-b": single},
    }


def test_rows_are_per_image_whole_where_it_was_measured_and_shares_of_the_same_side():
    rows = rows_of(record(1.0))
    assert seconds_of(rows[0], "eager") == (10 * 1.0 + 4.0) / 2
    assert seconds_of(rows[0], "engines") == (10 * 0.5 + 1.0) / 2
    assert (seconds_of(rows[1], "eager"), seconds_of(rows[1], "engines")) == (4.0, 1.0)
    shares = {side: [share for _, share in relative(rows, side)] for side in ("eager", "engines", "published")}
    assert shares == {"eager": [7 / 4, 1], "engines": [3.0, 1], "published": [pytest.approx(0.18 / 0.53), 1]}
    text = markdown(record(1.0))
    assert "| himar-b | 2 | 7 | 3 | 0.18 | 2.33× ? | 1.75 | 3.00 | 0.34 |" in text
    assert "| mar-b | 256 | 4 | 1 | 0.53 | 4.00× ? | 1.00" in text
    assert "eager: composed seconds are 1.75 to 1.75 of whole generations'" in text
    unfinished = record(1.0)
    unfinished["models"]["himar-b"]["host"] = {}  # on a CPU the networks alone are not a generation
    assert [row.model for row in rows_of(unfinished)] == ["mar-b"]


def test_nothing_is_kept_of_engines_that_give_other_numbers():
    truth = np.ones(8)
    sides = [Side(name, dict, lambda x=x: {"x": truth * x}) for name, x in (("eager", 1.0), ("engines", 1.01))]
    measured = measure(Work("dit_head", 4, {"x": truth}, {"x": 1e-4}, sides), 3, 0.0, lambda text, done: None)
    with pytest.raises(VerificationError, match="dit_head at batch 4 was not timed, since outputs differ: engines"):
        figure3_measure._figures(measured)


def test_a_run_leaves_a_record_a_plot_and_a_table_and_goes_on_where_it_stopped(digits_bundle, tmp_path, capsys):
    (tmp_path / "digits-fp32-onnxruntime").symlink_to(digits_bundle)
    out = tmp_path / "new" / "x.json"
    asked = ["--config", "digits", "--steps", "1", "--steps", "3", "--shapes", "2", "--bundles", str(tmp_path)]
    asked += ["--threads", "1", "--out", str(out)]
    assert run_cli(figure3.main, [*asked, "--minutes", "0"]) == 1
    assert "the time given with --minutes was up; the same command continues" in capsys.readouterr().err
    assert not out.with_suffix(".png").exists()

    assert run_cli(figure3.main, asked) == 0
    content = json.loads(out.read_text())
    (entry,) = content["models"].values()
    assert {call["component"] for call in entry["calls"]} == {
        "transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder",
    }  # fmt: skip
    assert all(call["relative_l2"] < 1e-4 and len(call["seconds"]["engines"]) == 6 for call in entry["calls"])
    for call in entry["calls"]:
        assert call["ratios"]["eager"]["low"] <= call["ratios"]["eager"]["value"] <= call["ratios"]["eager"]["high"]
        assert set(call["doubts"]) == set(call["warm_up"]) == {"eager", "engines"}
    first, second = rows_of(content)
    assert 0 < seconds_of(first, "engines") < seconds_of(second, "engines")
    assert first.ratio.low <= first.ratio.value <= first.ratio.high
    assert first.networks["eager"]["dit_head"] == pytest.approx(second.networks["eager"]["dit_head"] / 3)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    text = out.with_suffix(".md").read_text()
    assert "| digits | 3 |" in text and "| digits | dit_head | 2 | – |" in text

    capsys.readouterr()
    assert run_cli(figure3.main, asked) == 0
    assert "loading" not in capsys.readouterr().err  # nothing is left to measure
    assert json.loads(out.read_text())["models"] == content["models"]
    assert run_cli(figure3.main, ["--show", "--out", str(out)]) == 0
    assert capsys.readouterr().out == text
    assert run_cli(figure3.main, [*asked, "--batch", "2"]) == 1
    assert "was measured with batch 1, not 2; choose another --out" in capsys.readouterr().err
    out.write_text("{")
    assert run_cli(figure3.main, asked) == 1
    assert "is not a record of figure 3 to continue" in capsys.readouterr().err


def test_the_request_is_checked_before_anything_is_built_or_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(figure3_measure, "build_bundles", lambda *_: pytest.fail("it built"))
    own = tmp_path / "digits.json"
    own.write_text(json.dumps(read_config("digits")))
    out = tmp_path / "new" / "x.json"
    for options, expected in (
        (["--device", "cuda"], "PyTorch has no GPU here for device 'cuda'; use --device cpu."),
        (["--config", str(own)], "two configurations have the name 'digits'; leave one out, or rename its file."),
        (["--steps", "65"], "digits has 64 positions in phase high; it cannot take 65 steps"),
    ):
        assert run_cli(figure3.main, ["--config", "digits", *options, "--out", str(out)]) == 1
        assert expected in capsys.readouterr().err
    assert not out.parent.exists()
    (tmp_path / "file").write_text("")
    assert run_cli(figure3.main, ["--config", "digits", "--out", str(tmp_path / "file" / "x.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_gpu_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    require_gpu("cuda:0")
    with pytest.raises(EngineError, match="PyTorch has 1 GPU here, so no device 'cuda:1'; use --device cuda:0"):
        require_gpu("cuda:1")


def damaged(value, top) -> Iterator[dict]:
    """Every way to put a value of another type in place of one that a record holds, or to leave it out."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        kept = value[key]
        for other in (None, True, -1, 0, 10**400, float("nan"), "x", [], [[]], {}, {"x": 1}):
            value[key] = other
            yield top
        del value[key]
        yield top
        value.insert(key, kept) if isinstance(value, list) else value.__setitem__(key, kept)
        if isinstance(kept, dict | list):
            yield from damaged(kept, top)


def test_whatever_type_a_record_holds_it_is_refused_or_shown(tmp_path, monkeypatch):
    content = record(1.0)
    call = content["models"]["himar-b"]["calls"][0]
    call["ratios"] = {"eager": {"value": 2.0, "low": 1.9, "high": 2.1, "doubts": ["few rounds"]}}
    call |= {"others": 0.1, "doubts": {"eager": ["warm"]}}
    content["environment"]["versions"] = {"torch": "2.13.0"}
    content = json.loads(json.dumps(content))  # no two entries are one object
    path, refused = tmp_path / "x.json", 0
    monkeypatch.setattr(figure3_ratios, "RESAMPLES", 3)
    for other in damaged(content, content):
        text = json.dumps(other)
        path.write_text(text)
        try:
            figure3._page(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error) and "record of figure 3" in str(error)
        assert path.read_text() == text
    assert refused > 300
    assert content == json.loads(json.dumps(content)) and rows_of(content)


@pytest.mark.gpu
def test_on_a_gpu_whole_generations_stand_beside_the_composed(build_digits, tmp_path):
    build_digits(tmp_path / "digits-fp16-onnxruntime", "--fp16")
    asked = ["--config", "digits", "--steps", "1", "--device", "cuda", "--precision", "fp16", "--whole", "--compile"]
    assert run_cli(figure3.main, [*asked, "--bundles", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 0
    (row,) = rows_of(json.loads((tmp_path / "x.json").read_text()))
    assert set(row.whole) == {"eager", "compiled", "engines"} == set(row.composed)
    assert all(row.composed[side] < 1.5 * row.whole[side] for side in row.whole)
