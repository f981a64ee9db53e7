"""Held modulations: the same images from eager and engines, parts that a bundle may lack, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from himar import generate, load_checkpoint
from himar_export.cli import main
from himar_export.verify.verify import verify_selftest
from himar_kernels import InputError, PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig, build_chain
from himar_runtime import Bundle, Device, Pipeline, load_networks
from himar_runtime.engines.deferred import DeferredEngine
from himar_runtime.families.hi_mar import loop
from tests.closeness import RUN, assert_near, assert_same_pixels, distance
from tests.runtime.resident_pipelines import lane_of, resident_pipeline, same

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
PARTS = ["dit_head_modulations", "dit_head_held"]
SEED, LABELS = 5, [0, 1, 2]
SAMPLING = SamplingConfig(
    4, 2, low_guidance=2.0, high_guidance=2.5, low_diffusion_steps=12, high_diffusion_steps=30, modulation_interval=2
)
CHANGES: dict[str, dict[str, Any]] = {
    "alone": {},
    "forecast": {"high_forecast": 4},
    "condition cache": {"guidance_interval": 2, "modulation_interval": 4},
    "groups that start with one half": {"guidance_interval": 2, "modulation_interval": 3},
    "without guidance": {"high_guidance": 1.0},
    "once a chain": {"modulation_interval": 1000},
}


@pytest.fixture(scope="module")
def pipeline(held_bundle) -> Pipeline:
    return Pipeline.load(held_bundle, threads=1)


@pytest.mark.parametrize("name", CHANGES)
def test_images_are_those_of_the_eager_model_and_of_the_whole_head(pipeline, monkeypatch, name) -> None:
    sampling = SAMPLING.with_changes(**CHANGES[name])
    found = pipeline.generate(LABELS, seed=SEED, sampling=sampling)
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    # A group that starts at the top of the chain magnifies rounding as a short chain does.
    assert_near(found.latents, generate(model, LABELS, draws=PhiloxDraws(SEED), sampling=sampling).numpy(), 5 * RUN)
    alone = pipeline.generate(LABELS[1:2], seed=SEED, first_index=1, sampling=sampling)
    assert_same_pixels(alone.images[0], found.images[1])
    whole = replace(sampling, modulation_interval=1)
    plain = pipeline.generate(LABELS, seed=SEED, sampling=whole).latents
    assert distance(found.latents, plain) > 20 * RUN  # something was held

    def chain_of(_: SamplingConfig, step: Any) -> Any:
        chain = build_chain("ddpm", step.diffusion_steps)
        if step.phase == "low":
            return chain
        each = sampling.evaluations("high")
        return replace(chain, timesteps=each.held_timesteps(chain.timesteps, each.halves(len(chain), step.halves)))

    monkeypatch.setattr(loop, "step_chain", chain_of)
    same = pipeline.generate(LABELS, seed=SEED, sampling=whole).latents
    assert_near(found.latents, same, 1e-6)


def test_the_bundle_has_the_head_whole_and_in_parts_that_share_its_weights(held_bundle, digits_bundle) -> None:
    with_parts, without = Bundle.open(held_bundle), Bundle.open(digits_bundle)
    assert [*without.manifest.components, *PARTS] == sorted(
        with_parts.manifest.components, key=[*without.manifest.components, *PARTS].index
    )
    sizes = [(each / "weights.bin").stat().st_size for each in (held_bundle, digits_bundle)]
    assert sizes[0] <= sizes[1] * 1.01
    held, forecast = with_parts.manifest.sampling["held"], without.manifest.sampling["forecast"]
    assert held == replace(forecast, modulation_interval=2) and "held" not in without.manifest.sampling
    names = [each.name for each in verify_selftest(with_parts)]
    assert "dit_head: prediction" in names and "dit_head_held: prediction" in names


def test_parts_are_loaded_when_a_request_holds_modulations(held_bundle) -> None:
    networks = load_networks(Bundle.open(held_bundle), Device("cpu"), 1)
    assert [name for name, engine in networks.engines.items() if isinstance(engine, DeferredEngine)] == PARTS
    pipeline = Pipeline(Bundle.open(held_bundle), networks)
    loaded = [engine for name, engine in networks.engines.items() if name in PARTS]
    pipeline.generate([1], sampling=replace(SAMPLING, modulation_interval=1))
    assert all(engine._engine is None for engine in loaded)
    pipeline.generate([1], sampling=SAMPLING)
    assert all(engine._engine is not None for engine in loaded)


def test_a_bundle_without_parts_refuses_the_setting(digits_bundle) -> None:
    with pytest.raises(
        InputError,
        match="modulation_interval is 3, but this bundle has no dit_head_modulations; build it with "
        "--held-modulations, or leave the setting out",
    ):
        Pipeline.load(digits_bundle, threads=1).generate([1], modulation_interval=3)


@pytest.mark.parametrize("name", ["forecast", "groups that start with one half"])
def test_the_resident_loop_gives_the_same_images(pipeline, held_bundle, host_kernels, name) -> None:
    sampling = SAMPLING.with_changes(**CHANGES[name])
    resident = resident_pipeline(held_bundle, host_kernels)
    same(resident.generate(LABELS, seed=SEED, sampling=sampling),
         pipeline.generate(LABELS, seed=SEED, sampling=sampling))  # fmt: skip
    assert "replay" in lane_of(resident).trace


def test_one_lane_holds_modulations_and_then_does_not(pipeline, held_bundle, host_kernels) -> None:
    resident = resident_pipeline(held_bundle, host_kernels)
    short = replace(SAMPLING, low_steps=2, low_diffusion_steps=4, high_diffusion_steps=8)
    for interval, labels in ((1, LABELS), (2, LABELS[:1]), (1, LABELS[:2]), (3, LABELS)):
        sampling = replace(short, modulation_interval=interval)
        same(resident.generate(labels, seed=SEED, sampling=sampling),
             pipeline.generate(labels, seed=SEED, sampling=sampling))  # fmt: skip


def test_the_resident_loop_says_what_a_bundle_lacks(digits_bundle, host_kernels) -> None:
    with pytest.raises(InputError, match="modulation_interval is 2, but this bundle has no dit_head_modulations"):
        resident_pipeline(digits_bundle, host_kernels).generate([1], modulation_interval=2)


def test_a_model_without_a_dit_head_refuses_the_setting(small_variant, build_variant) -> None:
    sampling = SamplingConfig(2, 2, modulation_interval=2)
    with pytest.raises(InputError, match="modulation_interval is 2, but this model has no DiT head"):
        generate(small_variant("visual"), [0], draws=PhiloxDraws(0), sampling=sampling)
    with pytest.raises(InputError, match="modulation_interval is 2, but this bundle's model has no DiT head"):
        Pipeline.load(build_variant("visual"), threads=1).generate([0], sampling=sampling)


def test_dit_heads_of_both_phases_hold_theirs(build_variant) -> None:
    bundle = build_variant("dit-both", "--held-modulations")
    chains = {"low_diffusion_steps": 6, "high_diffusion_steps": 5, "low_solver": "dpm++", "high_solver": "dpm++"}
    sampling = SamplingConfig(2, 2, 2.0, 1.5).with_changes(**chains, modulation_interval=3)
    found = Pipeline.load(bundle, threads=1).generate(LABELS, seed=SEED, sampling=sampling).latents
    model = load_checkpoint(bundle.with_suffix(".safetensors"))
    expected = generate(model, LABELS, draws=PhiloxDraws(SEED), sampling=sampling).numpy()
    assert_near(found, expected, RUN)
    plain = generate(model, LABELS, draws=PhiloxDraws(SEED), sampling=replace(sampling, modulation_interval=1)).numpy()
    assert distance(found, plain) > 20 * RUN


def test_half_precision_holds_one_tensor_a_layer(build_variant, host_kernels) -> None:
    plain, half = (build_variant("dit-both", "--held-modulations", *more) for more in ((), ("--fp16",)))
    specs = Bundle.open(half).manifest.components
    between = specs["dit_head_high_modulations"].outputs
    assert [each.name for each in between][-1] == "final_modulations" and {each.dtype for each in between} == {
        "float16"
    }
    assert specs["dit_head_high_held"].inputs[1:] == between
    graph = onnx.load(half / specs["dit_head_high_held"].file, load_external_data=False).graph
    assert not {"Split", "Slice", "Concat"} & {node.op_type for node in graph.node}
    chains = {"low_diffusion_steps": 6, "high_diffusion_steps": 5, "low_solver": "dpm++", "high_solver": "dpm++"}
    sampling = SamplingConfig(2, 2, 2.0, 1.5).with_changes(**chains, modulation_interval=3)
    expected = Pipeline.load(plain, threads=1).generate(LABELS, seed=SEED, sampling=sampling)
    found = Pipeline.load(half, threads=1).generate(LABELS, seed=SEED, sampling=sampling)
    assert 0 < distance(found.latents, expected.latents) < 0.02
    same(resident_pipeline(half, host_kernels).generate(LABELS, seed=SEED, sampling=sampling), found)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(each) for each in arguments]) == 1
    return " ".join(capsys.readouterr().err.split())


def test_builds_that_could_not_hold_modulations_are_refused(small_checkpoint, build_variant, capsys, tmp_path) -> None:
    checkpoint = small_checkpoint(tmp_path / "small.safetensors", 1)
    out = ("--held-modulations", "--out", tmp_path / "b")
    for precision in ("bf16", "int8"):
        text = said(capsys, "build", checkpoint, f"--{precision}", *out)
        assert f"dit_head_modulations would be in {precision}, but modulations are held in fp32 or fp16;" in text
    text = said(capsys, "build", checkpoint, "--precision", "dit_head_held=fp16", *out)
    assert "dit_head_modulations would be in fp32 and dit_head_held in fp16, but what they share has one type" in text
    text = said(capsys, "build", checkpoint, "--backend", "tensorrt", *out)
    assert "modulations are held by ONNX Runtime, not by 'tensorrt'; leave it out" in text
    visual = build_variant("visual").with_suffix(".safetensors")
    text = said(capsys, "build", visual, *out)
    assert "--held-modulations is given, but this model has no DiT head to take apart; leave it out." in text
    assert not (tmp_path / "b").exists()


def test_a_refitted_bundle_keeps_its_parts(small_checkpoint, tmp_path) -> None:
    first, second = (small_checkpoint(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    command = ["build", str(first), "--held-modulations", "--max-batch", "3", "--out", str(tmp_path / "old"), "--json"]
    assert main(command) == 0
    assert main(["refit", str(tmp_path / "old"), str(second), "--out", str(tmp_path / "new"), "--json"]) == 0
    components = [json.loads((tmp_path / name / "manifest.json").read_text())["components"] for name in ("old", "new")]
    assert list(components[0]) == list(components[1]) and set(PARTS) <= set(components[1])
