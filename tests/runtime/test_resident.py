"""The resident loop in host memory: the images of the loop in NumPy, without waiting for the device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_kernels import EngineError, PhiloxDraws
from himar_kernels.families.hi_mar import RecordedDraws, SamplingConfig, load_recording, recorded_request
from himar_runtime import Pipeline
from tests.closeness import RUN, SAME_ENGINES, assert_near, assert_same_pixels
from tests.runtime.resident_pipelines import host_pipeline, lane_of, resident_pipeline, same

GOLDEN = Path(__file__).parents[1] / "golden"
GUIDED = SamplingConfig(3, 2, low_guidance=1.5, high_guidance=2.0, low_diffusion_steps=6, high_diffusion_steps=5)


class HostDraws:
    """Philox's draws, made on the host: what any other source of draws looks like to the loop."""

    def __init__(self, seed: int) -> None:
        draws = PhiloxDraws(seed)
        self.order, self.initial_noise, self.noise = draws.order, draws.initial_noise, draws.noise


@pytest.fixture
def resident(host_kernels) -> Callable[..., Pipeline]:
    return lambda path, recordable=None: resident_pipeline(path, host_kernels, recordable)


@pytest.mark.parametrize(
    "sampling",
    [
        GUIDED,
        replace(GUIDED, low_guidance=1.0),
        replace(GUIDED, high_guidance=1.0, temperature=0.7),
        replace(GUIDED, low_guidance=1.0, high_guidance=1.0, guidance_schedule="constant"),
        SamplingConfig(1, 1, 3.0, 1.5, low_diffusion_steps=2, high_diffusion_steps=3),
        SamplingConfig(4, 16, 1.2, 1.4, low_diffusion_steps=3, high_diffusion_steps=2),
        replace(GUIDED, low_solver="dpm++", high_solver="dpm++"),
        replace(GUIDED, low_solver="ddpm", high_solver="ddim", temperature=0.7),
    ],
)
@pytest.mark.parametrize("draws", [PhiloxDraws(2**63 + 5), HostDraws(11)])
def test_the_images_are_those_of_the_loop_on_the_host(resident, bundle_path: Path, sampling, draws) -> None:
    pipeline, host = resident(bundle_path), host_pipeline(bundle_path)
    for labels in ([1, 3, 0], [4], [2, 2, 1, 0, 3]):
        same(
            pipeline.generate(labels, draws=draws, sampling=sampling, first_index=7),
            host.generate(labels, draws=draws, sampling=sampling, first_index=7),
        )


def test_images_of_several_seeds_are_those_of_each_alone(resident, bundle_path: Path) -> None:
    pipeline, seeds = resident(bundle_path), [9, 2**64 - 1, 9, 4]
    together = pipeline.generate([1, 3, 0, 2], seeds=seeds, sampling=GUIDED)
    same(together, host_pipeline(bundle_path).generate([1, 3, 0, 2], seeds=seeds, sampling=GUIDED))
    for image, (label, seed) in enumerate(zip([1, 3, 0, 2], seeds, strict=True)):
        alone = pipeline.generate([label], seed=seed, sampling=GUIDED)
        assert_same_pixels(together.images[image], alone.images[0])


@pytest.mark.parametrize("seeds", [{"seed": 3}, {"seeds": [3, 2**64 - 1]}], ids=lambda given: next(iter(given)))
def test_nothing_waits_for_the_device_before_the_end(resident, bundle_path: Path, seeds) -> None:
    """Nor does anything go there once the first launch is queued: the numbers of either kind are drawn there."""
    pipeline = resident(bundle_path)
    pipeline.generate([1, 2], **seeds, sampling=GUIDED)
    trace = lane_of(pipeline).trace
    assert "wait" not in trace and "mark" not in trace
    launched = [i for i, name in enumerate(trace) if name not in ("upload", "clear", "download")]
    assert all(i < launched[0] for i, name in enumerate(trace) if name == "upload")
    assert all(i > launched[-1] for i, name in enumerate(trace) if name == "download")


def test_previews_are_those_of_the_loop_on_the_host(resident, bundle_path: Path) -> None:
    seen = {}
    for name, pipeline in (("host", host_pipeline(bundle_path)), ("resident", resident(bundle_path))):
        steps = seen[name] = []

        def look(step, steps=steps) -> None:
            steps.append((step.low_latents(), step.preview(), step.so_far()))

        result = pipeline.generate([1, 4], seed=3, on_step=look)
        np.testing.assert_array_equal(steps[-1][0], result.low_latents)
    # The device may be a step ahead of what it reports, never behind.
    for index, (low, pixels, so_far) in enumerate(seen["resident"]):
        ahead = seen["host"][min(index + 1, len(seen["host"]) - 1)]
        assert_near(low, ahead[0], SAME_ENGINES)
        assert_same_pixels(pixels, ahead[1])
        if so_far.shape == ahead[2].shape:  # else the device has begun phase high, and this is still phase low's
            assert_same_pixels(so_far, ahead[2])
    assert [step[2].shape for step in seen["resident"]] == [step[2].shape for step in seen["host"]]


def test_progress_comes_one_step_behind_and_can_cancel(resident, bundle_path: Path) -> None:
    pipeline = resident(bundle_path)
    seen: list[tuple[str, int, int, int]] = []

    def note(event) -> bool:
        seen.append((event.phase, event.step, event.done, event.total))
        assert lane_of(pipeline).trace.count("mark") == min(event.done + 1, event.total)
        return True

    pipeline.generate([1, 2], seed=3, sampling=GUIDED, on_step=note)
    assert seen == [("low", 0, 1, 5), ("low", 1, 2, 5), ("low", 2, 3, 5), ("high", 0, 4, 5), ("high", 1, 5, 5)]
    for last in range(5):
        result = pipeline.generate([1, 2], seed=3, sampling=GUIDED, on_step=lambda event, n=last: event.done <= n)
        assert (result.status, len(result.latents)) == ("cancelled", 0)
    same(
        pipeline.generate([1, 2], seed=3, sampling=GUIDED),
        host_pipeline(bundle_path).generate([1, 2], seed=3, sampling=GUIDED),
    )


def test_whoever_leaves_early_leaves_an_idle_device(resident, bundle_path: Path) -> None:
    pipeline = resident(bundle_path)
    pipeline.generate([1, 2], seed=3, sampling=GUIDED, on_step=lambda event: False)
    assert lane_of(pipeline).trace[-1] == "synchronize"

    def fail(event) -> None:
        raise ZeroDivisionError

    lane_of(pipeline).trace.clear()
    with pytest.raises(ZeroDivisionError):
        pipeline.generate([1, 2], seed=3, sampling=GUIDED, on_step=fail)
    assert lane_of(pipeline).trace[-1] == "synchronize"


def test_lanes_of_four_threads_give_the_images_of_one(resident, bundle_path: Path) -> None:
    pipeline = resident(bundle_path)
    expected = [pipeline.generate([1, 2, 3], seed=seed, sampling=GUIDED).latents for seed in range(4)]
    lanes = [pipeline.clone() for _ in range(4)]
    found: list[Any] = [None] * 4

    def work(number: int) -> None:
        for _ in range(3):
            found[number] = lanes[number].generate([1, 2, 3], seed=number, sampling=GUIDED).latents

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("component", "where"),
    [
        ("transformer_low", "in phase low, step 0"),
        ("mlp_head", "in phase low, step 0"),
        ("transformer_high", "in phase high, step 0"),
        ("dit_head", "in phase high, step 0"),
        ("vae_decoder", ""),
    ],
)
def test_values_that_are_not_finite_stop_with_the_component(
    resident, bundle_path: Path, component: str, where: str
) -> None:
    pipeline = resident(bundle_path)
    engine = pipeline._runner._lane.engines[component]
    run = engine.enqueue

    def poison(tensors) -> None:
        run(tensors)
        output = tensors[engine.spec.outputs[-1].name]
        lane = lane_of(pipeline)
        lane.queue("poison", lambda: lane._memory.upload(output.address, np.full(output.shape, np.nan, np.float32)))

    engine.enqueue = poison
    with pytest.raises(EngineError, match=rf"^{component} returned values that are not finite ?{where}; if the bundle"):
        pipeline.generate([1, 2], seed=3, sampling=GUIDED)
    engine.enqueue = run
    fresh = pipeline.clone()
    assert fresh.generate([1, 2], seed=3, sampling=GUIDED).status == "complete"


@pytest.mark.parametrize(("model", "case"), [("128", "guided"), ("128", "unguided")])
def test_recorded_runs_of_the_released_model(resident, request, model: str, case: str) -> None:
    path = request.getfixturevalue(f"narrow_{model}_bundle")
    arrays = load_recording(GOLDEN / f"himar-narrow-{model}.npz")
    recorded = recorded_request(arrays, case)
    pipeline = resident(path)
    result = pipeline.generate(recorded.labels, draws=RecordedDraws(arrays, case), sampling=recorded.sampling)
    latents = result.latents * np.float32(pipeline.bundle.manifest.model.vae_scale)
    assert_near(latents, recorded.latent, RUN)
