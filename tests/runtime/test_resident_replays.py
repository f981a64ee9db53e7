"""The resident loop in host memory: what is recorded once, replayed, recorded anew or run directly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from himar_kernels import EngineError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_runtime import Bundle, Pipeline
from tests.runtime.resident_pipelines import host_pipeline, lane_of, resident_pipeline, same

GUIDED = SamplingConfig(3, 2, low_guidance=1.5, high_guidance=2.0, low_diffusion_steps=6, high_diffusion_steps=5)


@pytest.fixture
def resident(host_kernels) -> Callable[..., Pipeline]:
    return lambda path, recordable=None: resident_pipeline(path, host_kernels, recordable)


def test_segments_run_once_are_recorded_once_and_then_replayed(resident, bundle_path: Path) -> None:
    pipeline = resident(bundle_path)
    lane = lane_of(pipeline)
    first = pipeline.generate([1, 2], seed=3, sampling=GUIDED)
    # Within one request only the reverse steps repeat: MLP steps of equal r, and DiT steps.
    assert lane.trace.count("himar_dit_step") == 1
    assert lane.trace.count("transformer_low") == GUIDED.low_steps
    assert lane.trace.count("transformer_high") == GUIDED.high_steps
    pipeline.generate([1, 2], seed=4, sampling=GUIDED)
    lane.trace.clear()
    again = pipeline.generate([1, 2], seed=3, sampling=GUIDED)
    assert not {"transformer_low", "transformer_high", "mlp_head", "dit_head"} & set(lane.trace)
    steps = GUIDED.low_steps * GUIDED.low_diffusion_steps + GUIDED.high_steps * GUIDED.high_diffusion_steps
    decoder = "vae_decoder" in Bundle.open(bundle_path).manifest.components
    assert lane.trace.count("replay") == steps + GUIDED.low_steps + GUIDED.high_steps + decoder
    assert np.array_equal(first.latents, again.latents)


def test_a_replayed_graph_follows_seed_label_guidance_chain_and_temperature(resident, bundle_path: Path) -> None:
    pipeline, host = resident(bundle_path), host_pipeline(bundle_path)
    for seed in range(3):
        pipeline.generate([0, 1], seed=seed, sampling=GUIDED)
    others = [
        replace(GUIDED, low_guidance=2.5, high_guidance=1.1),
        replace(GUIDED, temperature=0.3),
        replace(GUIDED, low_diffusion_steps=9, high_diffusion_steps=4),
        replace(GUIDED, guidance_schedule="constant"),
        replace(GUIDED, low_solver="dpm++", high_solver="ddim"),
    ]
    for sampling in others:
        arguments = {"seed": 99, "sampling": sampling, "first_index": 2**32 - 2}
        same(pipeline.generate([4, 2], **arguments), host.generate([4, 2], **arguments))
    mixed = {"seeds": [5, 2**64 - 1], "sampling": GUIDED, "first_index": 9}
    lane_of(pipeline).trace.clear()
    same(pipeline.generate([4, 2], **mixed), host.generate([4, 2], **mixed))
    assert "transformer_low" not in lane_of(pipeline).trace  # all is replayed


def test_graphs_of_another_epoch_are_not_replayed(resident, bundle_path: Path) -> None:
    """An engine that gave up its contexts has pulled the ground from under every graph."""
    pipeline = resident(bundle_path)
    for _ in range(3):
        expected = pipeline.generate([1, 2], seed=3, sampling=GUIDED)
    lane = lane_of(pipeline)
    lane.epoch += 1
    lane.trace.clear()
    again = pipeline.generate([1, 2], seed=3, sampling=GUIDED)
    assert lane.trace.count("transformer_low") == GUIDED.low_steps
    assert np.array_equal(expected.latents, again.latents)


def test_an_engine_that_can_no_longer_be_recorded_is_asked_before_each_recording(
    resident, bundle_path: Path, caplog
) -> None:
    pipeline = resident(bundle_path)
    pipeline._runner._lane.engines["dit_head"].recordable = "it allocates"
    result = pipeline.generate([1, 2], seed=3, sampling=GUIDED)
    assert "cannot be recorded: it allocates" in caplog.text
    assert "replay" not in lane_of(pipeline).trace
    same(result, host_pipeline(bundle_path).generate([1, 2], seed=3, sampling=GUIDED))


def test_engines_that_cannot_be_recorded_run_directly(resident, bundle_path: Path, caplog) -> None:
    with caplog.at_level("INFO"):
        pipeline = resident(bundle_path, "their streams are their own")
    assert "without CUDA graphs: their streams are their own" in caplog.text
    for _ in range(3):
        result = pipeline.generate([1, 2], seed=3, sampling=GUIDED)
    assert "replay" not in lane_of(pipeline).trace
    same(result, host_pipeline(bundle_path).generate([1, 2], seed=3, sampling=GUIDED))


def test_a_recording_that_fails_is_logged_once_and_the_images_come_all_the_same(
    resident, bundle_path: Path, caplog, monkeypatch
) -> None:
    pipeline = resident(bundle_path)

    def refuse(enqueue) -> None:
        raise EngineError("CUDA's cudaStreamEndCapture failed: StreamCaptureInvalidated.")

    monkeypatch.setattr(lane_of(pipeline), "record", refuse)
    for _ in range(2):
        result = pipeline.generate([1, 2], seed=3, sampling=GUIDED)
    assert caplog.text.count("cannot be recorded: CUDA's cudaStreamEndCapture failed") == 1
    same(result, host_pipeline(bundle_path).generate([1, 2], seed=3, sampling=GUIDED))
