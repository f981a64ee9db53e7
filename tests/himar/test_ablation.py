"""The ablation on digits: fair sampling, runs that are not done twice or mixed, a report of what came out."""

import json

import pytest
import torch

from benchmarks.digits.curve import kept_snapshots, still_true
from benchmarks.studies import ablation_report, ablation_runs
from benchmarks.studies.ablation_runs import (
    OWN,
    SAMPLING,
    SHORT,
    Bench,
    Budget,
    finished_run,
    samplings,
    variant_config,
)
from benchmarks.studies.measure import WEIGHTS, Figures, Judge
from himar.data.digits import Digits, load_digits_split
from himar.families.hi_mar.digits import digit_latents
from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.presets import VARIANTS
from himar.vae.layouts import load_vae
from himar_kernels import ConfigError, InputError

BUDGET = Budget(steps=2, batch=4, images=10)
FLOOR = Figures(360, 4.9, 1.0, 9.0, 0.91, 0.90, 0.992)


def result(variant: str, seed: int, distance: float) -> dict:
    figures = {"distance": distance, "precision": 0.5, "recall": 0.25 * seed, "recognised": 0.75}
    config = variant_config(variant)
    steps = {name: {"low_steps": s.low_steps, "high_steps": s.high_steps} for name, s in samplings(config).items()}
    return {
        **{"variant": variant, "seed": seed, "parameters": 640_000, "samplings": steps},
        **{"budget": {"steps": 2, "batch": 4, "images": 10}, "figures": {OWN: figures, SHORT: figures}},
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_in_nothing_but_steps_when_they_are_sampled(variant):
    config = variant_config(variant)
    own, short = samplings(config)[OWN], samplings(config)[SHORT]
    low = 0 if config.single_scale else short.low_steps
    assert low + short.high_steps == 10
    assert (own == short) == (config.high_head == "dit")
    preset = variant_config("scale-vector").default_sampling
    for sampling in (own, short):
        for name in ("low_guidance", "high_guidance", "temperature", "low_solver", "high_solver"):
            assert getattr(sampling, name) == getattr(preset, name)
        for name in ("low_diffusion_steps", "high_diffusion_steps"):
            assert getattr(sampling, name) == SAMPLING[name] == 100
    if config.single_scale:
        assert own.high_steps == config.high_positions


def test_a_run_trains_measures_and_is_not_done_twice(tmp_path):
    train, _ = load_digits_split()
    vae = load_vae(WEIGHTS / "digits-vae.safetensors")
    some = Digits(train.images[:40], train.labels[:40])
    bench, steps = Bench(vae, digit_latents(vae, some), Judge()), []
    assert finished_run(tmp_path, "visual", 1, BUDGET) is None
    found = ablation_runs.run(tmp_path, "visual", 1, BUDGET, bench, lambda progress: steps.append(progress.step))
    assert steps == [1, 2]
    with torch.device("meta"):
        model = HiMAR(variant_config("visual"))
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["figures"][OWN]["images"] == BUDGET.images
    # Two steps teach nothing: such images are far from digits, and few pass for the class asked for.
    assert found["figures"][OWN]["distance"] > 50 and found["figures"][OWN]["recognised"] < 0.5
    assert finished_run(tmp_path, "visual", 1, BUDGET) == json.loads(json.dumps(found))
    with pytest.raises(ConfigError, match=r"budget.*'steps': 2.*'steps': 3.*--runs"):
        finished_run(tmp_path, "visual", 1, Budget(steps=3, batch=4, images=10))


def test_the_table_gives_means_and_spreads_and_says_how_many_seeds():
    runs = [result("condition", seed, distance) for seed, distance in enumerate([10.0, 20.0, 30.0])]
    table = ablation_report.markdown([result("single-scale", 0, 7.0), *runs], FLOOR)
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    assert (
        "| 3 | 8 + 16 | 20.0 ± 10.0 | 0.50 ± 0.00 | 0.25 ± 0.25 | 75.0 ± 0.0 |" in rows["condition pivots, MLP heads"]
    )
    assert "| 1 | 0 + 64 | 7.0 |" in rows["single scale, MLP head"]
    assert "distance 4.9" in table and "DiT" not in table


def test_the_report_holds_every_run_and_is_the_same_each_time(tmp_path):
    runs = [result(variant, 0, 10.0 + number) for number, variant in enumerate(VARIANTS)]
    files = ablation_report.write_report(tmp_path / "out", runs, FLOOR)
    assert json.loads(files[0].read_text())["runs"] == runs
    first = files[2].read_bytes()
    assert first.startswith(b"\x89PNG")
    ablation_report.write_report(tmp_path / "out", runs, FLOOR)
    assert files[2].read_bytes() == first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)


def test_points_of_other_weights_images_or_seeds_are_measured_again():
    known = [{"step": 9, "sha256": name, "seed": 1, "figures": {"images": 500}} for name in "abc"]
    known[1]["seed"], known[2]["figures"] = 2, {"images": 40}
    found = still_true(known, {100: "a", 200: "b", 300: "c", 400: "d"}, 500, 1)
    assert found == {100: {**known[0], "step": 100}}


def test_kept_snapshots_are_found_in_the_order_of_their_steps(tmp_path):
    for name in ("digits-000200", "digits-001000", "digits-000600", "digits", "digits-vae"):
        (tmp_path / f"{name}.safetensors").touch()
    assert [step for step, _ in kept_snapshots(tmp_path, "digits")] == [200, 600, 1000]
    with pytest.raises(InputError, match="--keep-snapshots"):
        kept_snapshots(tmp_path / "out", "digits")
