"""HMAR's resident loop in host memory: codes and images of the loop in NumPy, without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_kernels import EngineError, InputError
from himar_kernels.families.hmar import (
    PhiloxDraws,
    RecordedDraws,
    load_recording,
    plan,
    recorded_cases,
    recorded_request,
)
from himar_runtime import Bundle, Device, Networks, Pipeline, load_networks
from himar_runtime.families.hmar.host import HostRunner
from himar_runtime.families.hmar.resident import runner
from tests.closeness import RUN, SAME_ENGINES, assert_near, assert_same_pixels
from tests.runtime.host_lane import HostLane, on_host_lane
from tests.runtime.on_gpu import from_four_threads
from tests.runtime.resident_pipelines import host_pipeline, lane_of, resident_pipeline

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDING = GOLDEN / "hmar-narrow-144.npz"
QUICK = {"schedule": [[1], [1, 3], [2, 3, 4]], "top_k": 20}
ENGINES = {"conditions", "trunk", "next_scale_tail", "masked_tail", "vae_decoder"}


class HostDraws:
    """Philox's draws, made on the host: what any other source of draws looks like to the loop."""

    def __init__(self, seed: int) -> None:
        draws = PhiloxDraws(seed)
        self.uniforms, self.gumbel = draws.uniforms, draws.gumbel


@pytest.fixture
def resident(host_kernels, hmar_bundle) -> Callable[..., Pipeline]:
    return lambda recordable=None: resident_pipeline(hmar_bundle, host_kernels, recordable)


@pytest.fixture(scope="module")
def host(hmar_bundle) -> Pipeline:
    return host_pipeline(hmar_bundle)


def same(result: Any, expected: Any) -> None:
    np.testing.assert_array_equal(result.arrays["codes"], expected.arrays["codes"])
    assert_near(result.latents, expected.latents, SAME_ENGINES)
    assert_same_pixels(result.images, expected.images)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": "masked"},
        {"sampling": "nsp"},
        {"sampling": "unfiltered"},
        {"sampling": "unguided"},
        {"sampling": "var"},
        {"sampling": "var", "guidance": 0.0},
        {"sampling": "masked", "mask_guidance": 0.0},  # masked steps on the conditional rows alone
        {"sampling": "masked", "mask_guidance": 0.5},
        {"sampling": "nsp", "smooth": True},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_codes_and_images_are_those_of_the_loop_on_the_host(resident, host, changes) -> None:
    pipeline = resident()
    requests = [([4], PhiloxDraws(2**63 + 5)), ([1, 3, 0, 6], PhiloxDraws(1)), ([2, 5], HostDraws(11))]
    for labels, draws in requests:  # four labels are two chunks
        same(
            pipeline.generate(labels, draws=draws, first_index=7, **changes),
            host.generate(labels, draws=draws, first_index=7, **changes),
        )


def test_images_of_several_seeds_are_those_of_each_alone(resident, host) -> None:
    pipeline, seeds = resident(), [9, 2**64 - 1, 9, 4]
    together = pipeline.generate([1, 3, 0, 6], seeds=seeds, first_index=2, **QUICK)
    trace = lane_of(pipeline).trace
    assert "upload" not in trace[trace.index("himar_draw_codes") : trace.index("download")]  # drawn on the device
    same(together, host.generate([1, 3, 0, 6], seeds=seeds, first_index=2, **QUICK))
    for image, (label, seed) in enumerate(zip([1, 3, 0, 6], seeds, strict=True)):
        alone = pipeline.generate([label], seed=seed, first_index=2, **QUICK)
        np.testing.assert_array_equal(together.arrays["codes"][image], alone.arrays["codes"][0])


def test_a_request_that_runs_on_the_host_leaves_those_after_it_as_they_were(resident) -> None:
    """Smooth previews run the same engines, on arrays of their own."""
    pipeline = resident()
    first = pipeline.generate([1, 2], seed=3, **QUICK)
    trace = lane_of(pipeline).trace
    trace.clear()
    assert (pipeline.generate([5, 6], seed=3, sampling="nsp", smooth=True).arrays["codes"] == -1).all()
    assert "himar_draw_codes" not in trace
    for _ in range(2):
        again = pipeline.generate([1, 2], seed=3, **QUICK)
        np.testing.assert_array_equal(first.latents, again.latents)


@pytest.mark.parametrize("case", recorded_cases(load_recording(RECORDING)))
def test_recorded_runs_of_the_released_model(resident, case: str) -> None:
    arrays = load_recording(RECORDING)
    recorded = recorded_request(arrays, case)
    result = resident().generate(recorded.labels, draws=RecordedDraws(arrays, case), sampling=recorded.sampling)
    if not recorded.sampling.smooth:
        np.testing.assert_array_equal(result.arrays["codes"], recorded.codes)
    assert_near(result.latents[: len(recorded.f_hat[-1])], recorded.f_hat[-1], RUN)


def test_only_labels_go_in_and_codes_and_images_come_out(resident) -> None:
    pipeline = resident()
    lane = lane_of(pipeline)
    for sampling in ("masked", "var"):
        lane.trace.clear()
        pipeline.generate([1, 2], seed=3, sampling=sampling)
        assert "wait" not in lane.trace and "mark" not in lane.trace
        launched = [i for i, name in enumerate(lane.trace) if name not in ("upload", "clear", "download")]
        uploads, downloads = (
            [i for i, name in enumerate(lane.trace) if name == kind] for kind in ("upload", "download")
        )
        assert len(uploads) == 2 and max(uploads) < launched[0]  # classes, and where draws come from
        assert len(downloads) == 4 and min(downloads) > launched[-1]  # fault, codes, latents, pixels


def holes() -> np.ndarray:
    """A corner, a half, all but a border, a pixel, a stripe."""
    masks = np.zeros((5, 144, 144), np.bool_)
    masks[0, :20, :30] = masks[1, :, 72:] = masks[2, 30:110, 40:120] = masks[3, 0, 0] = masks[4, 60:70] = True
    return masks


@pytest.mark.parametrize(
    ("sampling", "labels"), [("masked", [2, 5, 0, 6, 1]), ("masked", None), ("var", [2, 5, 0, 6, 1])]
)
def test_edits_are_those_of_the_loop_on_the_host(resident, host, sampling, labels) -> None:
    """Counts of masked steps differ by image; five images are two chunks."""
    images = np.random.default_rng(0).integers(0, 256, (5, 144, 144, 3), np.uint8)
    pipeline = resident()
    before = pipeline.generate([1, 2, 3], seed=3, sampling=sampling)
    for draws in (PhiloxDraws(7), HostDraws(8)):
        found, expected = (
            each.edit(images, holes(), labels, draws=draws, sampling=sampling) for each in (pipeline, host)
        )
        same(found, expected)
        np.testing.assert_array_equal(found.images[~holes()], images[~holes()])
    again = pipeline.generate([1, 2, 3], seed=3, sampling=sampling)
    np.testing.assert_array_equal(before.arrays["codes"], again.arrays["codes"])


def test_steps_that_redraw_no_cell_of_an_edit_are_left_out(resident, host) -> None:
    images, schedule = np.zeros((2, 144, 144, 3), np.uint8), [[1], [1, 3], [1, 1, 2, 5], [34, 1, 1], [79, 1, 1]]
    masks = holes()[[0, 3]]
    pipeline = resident()
    found, expected = (each.edit(images, masks, [1, 2], seed=5, schedule=schedule) for each in (pipeline, host))
    same(found, expected)
    trace = lane_of(pipeline).trace
    # At 6×6 one cell of 36 stands for none of the two or one that are drawn, and at 9×9 for none of a few either.
    assert trace.count("masked_tail") == trace.count("himar_least_confident_of_each") < 8


def test_previews_of_an_edit_show_what_is_kept(resident, host) -> None:
    images, masks = np.full((1, 144, 144, 3), 77, np.uint8), holes()[:1]
    seen: list[list[np.ndarray]] = [[], []]
    for pipeline, previews in zip((resident(), host), seen, strict=True):
        pipeline.edit(images, masks, [1], seed=3, on_step=lambda step, to=previews: to.append(step.preview()), **QUICK)
    for found, expected in zip(*seen, strict=True):
        assert_same_pixels(found, expected)
        assert (found[~masks] == 77).all()


def test_an_image_depends_on_its_seed_index_and_label_alone(resident) -> None:
    pipeline = resident()
    together = pipeline.generate([1, 2, 3, 4], seed=5, **QUICK)
    alone = pipeline.generate([4], seed=5, first_index=3, **QUICK)
    np.testing.assert_array_equal(together.arrays["codes"][3:], alone.arrays["codes"])
    assert_near(together.latents[3:], alone.latents, SAME_ENGINES)


@pytest.mark.parametrize("recordable", [None, "their streams are their own"])
def test_previews_are_those_of_the_loop_on_the_host(resident, host, recordable) -> None:
    seen: dict[str, list[Any]] = {"host": [], "resident": []}
    for name, pipeline in (("host", host), ("resident", resident(recordable))):
        pipeline.generate([1, 4], seed=3, on_step=lambda step, name=name: seen[name].append(step.preview()), **QUICK)
    assert len(seen["host"]) == 5
    for found, expected in zip(seen["resident"], seen["host"], strict=True):
        assert_same_pixels(found, expected)


def test_there_are_no_low_latents(resident) -> None:
    with pytest.raises(InputError, match=r"no low-resolution latents; use preview\(\)"):
        resident().generate([1], on_step=lambda step: step.low_latents(), **QUICK)


def test_progress_comes_one_scale_behind_and_can_cancel(resident, host) -> None:
    pipeline = resident()
    lane = lane_of(pipeline)
    seen: list[tuple[str, int, int]] = []

    def note(event) -> bool:
        seen.append((event.phase, event.done, event.total))
        assert lane.trace.count("mark") == min(event.done + 1, event.total)
        return True

    pipeline.generate([1, 2], seed=3, on_step=note, **QUICK)
    assert seen == [(f"scale {i}", i, 5) for i in range(1, 6)]
    for last in range(5):
        lane.trace.clear()
        result = pipeline.generate([1, 2], seed=3, on_step=lambda event, n=last: event.done <= n, **QUICK)
        assert (result.status, len(result.latents)) == ("cancelled", 0)
        assert lane.trace[-1] == "synchronize"
    same(pipeline.generate([1, 2], seed=3, **QUICK), host.generate([1, 2], seed=3, **QUICK))


def test_whoever_raises_leaves_an_idle_device(resident) -> None:
    def fail(event) -> None:
        raise ZeroDivisionError

    pipeline = resident()
    with pytest.raises(ZeroDivisionError):
        pipeline.generate([1, 2], seed=3, on_step=fail, **QUICK)
    assert lane_of(pipeline).trace[-1] == "synchronize"


@pytest.mark.parametrize("sampling", ["masked", "var"])
def test_lanes_of_four_threads_give_the_codes_of_one(resident, sampling) -> None:
    pipeline = resident()
    expected = [pipeline.generate([label] * 3, seed=9, sampling=sampling).arrays["codes"] for label in range(4)]
    found = from_four_threads(pipeline, 1, sampling=sampling)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other.arrays["codes"])


@pytest.mark.parametrize(
    ("component", "sampling", "where"),
    [
        ("conditions", "masked", "conditions returned values that are not finite;"),
        ("trunk", "masked", "next_scale_tail returned values that are not finite at scale 1;"),
        ("next_scale_tail", "masked", "next_scale_tail returned values that are not finite at scale 1;"),
        ("masked_tail", "masked", "masked_tail returned values that are not finite at scale 2;"),
        ("var_tail", "var", "next_scale_tail returned values that are not finite at scale 1;"),
        ("vae_decoder", "masked", "vae_decoder returned values that are not finite;"),
    ],
)
def test_values_that_are_not_finite_stop_with_the_component(resident, component, sampling, where) -> None:
    pipeline = resident()
    engine = pipeline._runner._lane.engines[component]
    run = engine.enqueue

    def poison(tensors) -> None:
        run(tensors)
        output = tensors[engine.spec.outputs[0].name]
        lane = lane_of(pipeline)
        lane.queue("poison", lambda: lane._memory.upload(output.address, np.full(output.shape, np.nan, np.float32)))

    engine.enqueue = poison
    with pytest.raises(EngineError, match=f"^{where} if the bundle"):
        pipeline.generate([1, 2], seed=3, sampling=sampling)
    engine.enqueue = run
    assert pipeline.clone().generate([1, 2], seed=3, sampling=sampling).status == "complete"


@pytest.mark.parametrize("sampling", ["masked", "var"])
def test_segments_run_once_are_recorded_once_and_then_replayed(resident, host, sampling) -> None:
    pipeline = resident()
    lane = lane_of(pipeline)
    first = pipeline.generate([1, 2], seed=3, sampling=sampling)
    assert "replay" not in lane.trace  # no two forwards of a request are alike but masked steps of a scale
    pipeline.generate([1, 2], seed=4, sampling=sampling)
    lane.trace.clear()
    again = pipeline.generate([1, 2], seed=3, sampling=sampling)
    assert not (ENGINES | {"var_trunk", "var_tail", "himar_scale_words"}) & set(lane.trace)
    settings, model = pipeline.bundle.manifest.sampling[sampling], pipeline.bundle.manifest.model
    assert lane.trace.count("replay") == 1 + len(plan(settings, model.scales)) + 1
    np.testing.assert_array_equal(first.latents, again.latents)
    np.testing.assert_array_equal(first.images, again.images)
    # What a request sets is in no graph: seed, label, filters, guidance, and how many cells a step redraws.
    lane.trace.clear()
    changed = {"guidance": 0.7, "top_k": 9, "top_p": 0.8, "schedule": [[1], [2, 2]] if sampling == "masked" else []}
    arguments = {"seed": 99, "sampling": sampling, "first_index": 2**32 - 2, **changed}
    same(pipeline.generate([4, 0], **arguments), host.generate([4, 0], **arguments))
    mixed = {**arguments, "seed": None, "seeds": [3, 2**64 - 1]}
    same(pipeline.generate([4, 0], **mixed), host.generate([4, 0], **mixed))
    assert not ENGINES & set(lane.trace)


def test_graphs_of_another_epoch_are_not_replayed(resident) -> None:
    """An engine that gave up its contexts has pulled the ground from under every graph."""
    pipeline = resident()
    for _ in range(3):
        expected = pipeline.generate([1, 2], seed=3, **QUICK)
    lane = lane_of(pipeline)
    lane.epoch += 1
    lane.trace.clear()
    again = pipeline.generate([1, 2], seed=3, **QUICK)
    assert lane.trace.count("next_scale_tail") == 5
    np.testing.assert_array_equal(expected.latents, again.latents)


def test_engines_that_cannot_be_recorded_run_directly(resident, host, caplog) -> None:
    with caplog.at_level("INFO"):
        pipeline = resident("their streams are their own")
    assert "without CUDA graphs: their streams are their own" in caplog.text
    for sampling in ("masked", "var"):
        for _ in range(3):
            result = pipeline.generate([1, 2], seed=3, sampling=sampling)
        same(result, host.generate([1, 2], seed=3, sampling=sampling))
    assert "replay" not in lane_of(pipeline).trace


def test_caches_are_allocated_when_a_request_first_needs_them(resident, monkeypatch) -> None:
    pipeline = resident()
    lane = lane_of(pipeline)
    sizes: list[int] = []
    allocate = lane.allocate
    monkeypatch.setattr(lane, "allocate", lambda size: sizes.append(size) or allocate(size))
    pipeline.generate([1], **QUICK)
    assert sizes == []
    for _ in range(3):
        pipeline.generate([1], sampling="var")
    model, rows = pipeline.bundle.manifest.model, 2 * 3
    starts, tail, base = model.scales.starts, model.tail, model.base
    floats = (base + tail) * 2 * (starts[-1] + starts[-2]) + max(base, tail) * 2 * model.scales.cells[-1]
    assert len(sizes) == 1 and floats * rows * model.width * 4 <= sizes[0] <= floats * rows * model.width * 4 + 10 * 256


@pytest.mark.parametrize("on_device", [False, True])
def test_all_scales_of_a_bundle_without_their_components_is_refused(hmar_bundle, host_kernels, on_device) -> None:
    bundle = Bundle.open(hmar_bundle)
    every = load_networks(bundle, Device("cpu"), 1)
    networks = Networks({name: engine for name, engine in every.engines.items() if not name.startswith("var")})
    pipeline = Pipeline(bundle, on_host_lane(networks, HostLane(host_kernels)) if on_device else networks)
    assert isinstance(pipeline._runner, runner.ResidentRunner) == on_device
    with pytest.raises(InputError, match=r"^all_scales is set, but this bundle has no component var_trunk; a model"):
        pipeline.generate([1], sampling="var")


def test_a_model_of_too_many_codes_runs_on_the_host(hmar_bundle, host_kernels, monkeypatch, caplog) -> None:
    monkeypatch.setattr(runner, "MOST_CODES", 100)
    bundle = Bundle.open(hmar_bundle)
    networks = on_host_lane(load_networks(bundle, Device("cpu"), 1), HostLane(host_kernels))
    assert isinstance(Pipeline(bundle, networks)._runner, HostRunner)
    assert (
        "the loop runs on the host, not on the GPU: the kernels draw from at most 100 codes, and this model has 144."
    ) in caplog.text


def test_a_device_without_room_leaves_the_loop_on_the_host(hmar_bundle, host_kernels, monkeypatch, caplog) -> None:
    lane = HostLane(host_kernels)

    def refuse(size: int) -> int:
        raise EngineError("cuda:0 has no room for a buffer.")

    monkeypatch.setattr(lane, "allocate", refuse)
    bundle = Bundle.open(hmar_bundle)
    networks = on_host_lane(load_networks(bundle, Device("cpu"), 1), lane)
    assert isinstance(Pipeline(bundle, networks)._runner, HostRunner)
    assert "the loop runs on the host, not on the GPU: cuda:0 has no room" in caplog.text
