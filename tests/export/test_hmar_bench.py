"""`himar-export bench` for HMAR: what it reports, when codes may differ, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.sampler import sample_codes
from himar.families.hmar.tokenizer.files import load_tokenizer
from himar_export.bench.measurement import measure
from himar_export.bench.time_breakdown import Clock, break_down_run
from himar_export.bench.workload import Sources, load
from himar_export.cli import main
from himar_export.families.hmar.bench.eager import eager_networks, run_eager
from himar_export.families.hmar.bench.family import FAMILY
from himar_kernels.families.hmar import PhiloxDraws, SamplingConfig

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL, CONFIG = GOLDEN / "hmar-narrow-144.pth", GOLDEN / "hmar-narrow-144.json"
VAE = GOLDEN / "hmar-vae-narrow.pth"
GIVEN = ("--checkpoint", MODEL, "--config", CONFIG, "--vae", VAE)
MASKED = SamplingConfig(top_k=20, schedule=((1,), (1, 3), (1, 1, 2, 5)))
VAR = SamplingConfig(top_k=20, all_scales=True)
PARTS = ["conditions", "trunk", "next_scale_tail", "masked_tail", "vae_decoder"]
VAR_PARTS = ["conditions", "var_trunk", "var_tail", "vae_decoder"]


def run(capsys, *arguments, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main([str(argument) for argument in ("bench", *arguments)]) == code
    printed = capsys.readouterr()
    return printed.out, " ".join(printed.err.split())


@pytest.fixture(scope="module")
def eager():
    model = load_checkpoint(MODEL, CONFIG)
    return model, load_tokenizer(VAE, model.config)


@pytest.fixture(scope="module")
def workload(hmar_bundle):
    return load(Sources(hmar_bundle, MODEL, str(CONFIG), VAE, None, "cpu", "masked", None, {}), 1)


def sampled(workload, sampling: SamplingConfig, batch: int = 2):
    from dataclasses import replace

    return replace(workload, request=replace(workload.request, sampling=sampling, batch=batch))


def test_a_run_says_everything_in_json_markdown_and_plots(capsys, hmar_bundle, tmp_path):
    markdown, plots = tmp_path / "bench.md", tmp_path / "plots"
    asked = ("--batch", 2, "--repeats", 3, "--warm-up", 0, "--components", "--threads", 1, "--sampling", "masked")
    files = ("--markdown", markdown, "--plots", plots)
    report = json.loads(run(capsys, hmar_bundle, *GIVEN, *asked, *files, "--json")[0])
    assert (report["to"], report["differ"], report["built_from_it"]) == ("images", [], True)
    assert report["sampling"]["schedule"] == [[1], [1, 3], [2, 3, 4], [6, 12, 18], [21, 27, 33]]
    (generation,) = report["generations"]
    assert {c["name"] for c in generation["comparisons"]} == {
        f"{side}: {name}" for side in ("eager", "engines") for name in ("codes", "latents", "images")
    }
    limits = {c["name"]: (c["limit"], c["relative_l2"], c["passed"]) for c in generation["comparisons"]}
    assert limits["engines: codes"] == (0.0, 0.0, True)
    for split in generation["splits"].values():
        assert {part["component"]: part["calls"] for part in split["parts"]} == dict(
            zip(PARTS, (1, 12, 5, 7, 1), strict=True)
        )
        assert list(split["phases"]) == ["class", "scales", "masked", "decode"]
        assert sum(split["phases"].values()) + split["host"] == pytest.approx(split["seconds"])
    assert sorted(generation["reached"]) == sorted(PARTS)
    assert all(each["flops"] > 0 and each["share"] > 0 for each in generation["reached"].values())
    assert [each["name"] for each in report["components"]] == PARTS
    assert all(c["passed"] for each in report["components"] for c in each["comparisons"])
    assert {each["name"]: each["rows"] for each in report["components"]} == dict(
        zip(PARTS, (4, 4, 4, 4, 2), strict=True)
    )
    text = markdown.read_text()
    assert "where the seconds go" in text and "next_scale_tail" in text and "Single components" in text
    assert sorted(path.name for path in plots.iterdir()) == ["latency.png", "roofline.png", "speedup.png"]


@pytest.mark.parametrize(("sampling", "parts"), [(MASKED, PARTS), (VAR, VAR_PARTS)])
def test_every_component_gives_what_eager_gives(workload, sampling, parts):
    calls = FAMILY.component_calls(sampled(workload, sampling), 2, False)
    assert [call.work.name for call in calls] == parts
    for call in calls:
        found = measure(call.work, 3, 0.0, lambda text, fraction: None)
        assert found.refused == {}, call.work.name
        assert call.cost.flops > 0
    if sampling.all_scales:
        assert set(calls[1].work.limits) == {"x", "own_keys", "own_values"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_eager_side_is_the_sampler_itself_and_every_call_is_timed(eager, precision):
    clock = Clock()
    own = eager_networks(*eager, dict.fromkeys(PARTS, precision), clock=clock)
    expected = sample_codes(*eager, [1, 2], draws=PhiloxDraws(7), sampling=MASKED)
    parts = [(name, "x") for name in PARTS]
    split = break_down_run(lambda: run_eager(own, [1, 2], MASKED), clock, parts)
    assert {part.component: part.calls for part in split.parts} == dict(zip(PARTS, (1, 9, 5, 4, 1), strict=True))
    assert 0 < split.host < split.seconds
    found = run_eager(own, [1, 2], MASKED)
    if precision == "fp32":
        np.testing.assert_array_equal(found["codes"], expected.codes.numpy())
    assert {p.dtype for part in eager for p in part.parameters()} == {torch.float32}
    assert "trunk" not in vars(eager[0])  # the model that was given stays as it is
    held = {p.dtype for p in own[0].ns_blocks.parameters() if p.dim() == 2}
    assert held == {torch.float32 if precision == "fp32" else torch.bfloat16}


def test_codes_must_be_equal_in_float32_and_forwards_decide_where_they_are_not(workload):
    """Rounding may turn one draw of many; then all that follows is another image, and logits are compared instead."""
    small = sampled(workload, MASKED)
    truth = {"codes": np.zeros((2, 5)), "latents": np.ones(3), "images": np.ones(3)}
    assert FAMILY.limits(small, truth, truth, lambda: truth)["codes"] == 0.0
    turned = {**truth, "codes": np.ones((2, 5))}
    assert FAMILY.limits(small, truth, truth, lambda: turned) == {"codes": None, "latents": None, "images": None}
    found = {c.name: c for c in FAMILY.compare_instead(small, 2)}
    assert list(found) == [
        "engines: next_scale_tail logits", "engines: masked_tail logits", "engines: vae_decoder image",
    ]  # fmt: skip
    assert all(c.passed and c.relative_l2 < 1e-5 for c in found.values())


def test_a_model_with_other_numbers_has_no_latency(capsys, hmar_bundle, tmp_path):
    state = torch.load(MODEL, weights_only=True)
    state["ns_head.weight"] = state["ns_head.weight"].flip(0)
    torch.save(state, tmp_path / "moved.pth")
    other = ("--checkpoint", tmp_path / "moved.pth", "--config", CONFIG, "--vae", VAE)
    text, message = run(capsys, hmar_bundle, *other, "--repeats", 3, "--warm-up", 0, "--threads", 1, code=1)
    assert "error: outputs differ and were not timed: generation at batch 1: engines: next_scale_tail logits" in message
    assert "images/s" not in text


def test_memory_is_measured_in_processes_of_their_own(capsys, hmar_bundle):
    asked = ("--repeats", 3, "--warm-up", 0, "--threads", 1, "--memory", "--json")
    (generation,) = json.loads(run(capsys, hmar_bundle, *GIVEN, *asked)[0])["generations"]
    eager, engines = (generation["memory"][side] for side in ("eager", "engines"))
    assert eager["peak"] > eager["imported"] > engines["peak"] > engines["imported"] > 1e7


def test_what_cannot_be_compared_is_refused(capsys, hmar_bundle, digits_bundle):
    wrong = ("--checkpoint", GOLDEN / "hmar-narrow-256.pth", "--config", GOLDEN / "hmar-narrow-256.json")
    assert "is not the model of" in run(capsys, hmar_bundle, *wrong, "--vae", VAE, code=1)[1]
    assert "is not the model of" in run(capsys, digits_bundle, *GIVEN, code=1)[1]
    without = run(capsys, hmar_bundle, "--checkpoint", MODEL, "--config", CONFIG, code=1)[1]
    assert "needs the tokenizer whose codes the model predicts; give it with --vae" in without
    assert "batch 4 is beyond the bundle's max_batch 3" in run(capsys, hmar_bundle, *GIVEN, "--batch", 4, code=1)[1]
    assert (
        "low_steps is given, but an HMAR model has no such setting"
        in (run(capsys, hmar_bundle, *GIVEN, "--low-steps", 3, code=1)[1])
    )
