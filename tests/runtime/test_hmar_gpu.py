"""HMAR on a GPU, with every backend that is installed: the CPU's codes, a loop that never leaves the device, lanes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from himar_kernels.families.hmar import RecordedDraws, load_recording, plan, recorded_cases, recorded_request
from himar_runtime import Bundle, Device, Pipeline, load_networks
from himar_runtime.engines.deferred import DeferredEngine
from himar_runtime.engines.ort.engine import RUNS_BEFORE
from himar_runtime.engines.ort.session import GRAPHS_VARIABLE, UNRECORDED
from himar_runtime.families.hmar.family import hmar_model
from himar_runtime.families.hmar.host import HostRunner, load_codebook
from himar_runtime.families.hmar.resident.runner import ResidentRunner
from tests.closeness import RUN, assert_near, assert_same_pixels
from tests.runtime.on_gpu import INSTALLED, Counting, from_four_threads

pytestmark = pytest.mark.gpu

RECORDING = Path(__file__).parents[1] / "golden" / "hmar-narrow-144.npz"
LABELS = [i % 7 for i in range(20)]
BATCHES = [1, 8, 20]  # 20 are three chunks
SAMPLINGS = ["masked", "nsp", "unfiltered", "unguided", "var"]


@pytest.fixture(scope="module", params=INSTALLED)
def backend(request) -> str:
    if not INSTALLED[request.param]:
        pytest.skip(f"the backend {request.param} is not installed for CUDA here")
    return request.param


@pytest.fixture(scope="module")
def gpu_bundle(backend, build_hmar, tmp_path_factory) -> Path:
    return build_hmar(tmp_path_factory.mktemp(backend) / "hmar", "--backend", backend, "--max-batch", "8")


@pytest.fixture(scope="module")
def on_cpu(hmar_bundle) -> Pipeline:
    return Pipeline.load(hmar_bundle)


@pytest.fixture(scope="module")
def on_gpu(gpu_bundle) -> Pipeline:
    pipeline = Pipeline.load(gpu_bundle, device="cuda:0")
    assert isinstance(pipeline._runner, ResidentRunner)
    return pipeline


def assert_same(result, expected) -> None:
    np.testing.assert_array_equal(result.arrays["codes"], expected.arrays["codes"])
    assert_near(result.latents, expected.latents, RUN)
    assert_same_pixels(result.images, expected.images)


def assert_equal(result, expected) -> None:
    np.testing.assert_array_equal(result.arrays["codes"], expected.arrays["codes"])
    np.testing.assert_array_equal(result.latents, expected.latents)
    np.testing.assert_array_equal(result.images, expected.images)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("batch", BATCHES)
def test_the_gpu_gives_the_cpus_codes(on_cpu, on_gpu, batch: int, sampling: str) -> None:
    cpu, gpu = (pipeline.generate(LABELS[:batch], seed=5, sampling=sampling) for pipeline in (on_cpu, on_gpu))
    assert_same(gpu, cpu)


@pytest.mark.parametrize("case", recorded_cases(load_recording(RECORDING)))
def test_recorded_runs_of_the_released_model(on_gpu, case: str) -> None:
    arrays = load_recording(RECORDING)
    recorded = recorded_request(arrays, case)
    result = on_gpu.generate(recorded.labels, draws=RecordedDraws(arrays, case), sampling=recorded.sampling)
    if not recorded.sampling.smooth:
        np.testing.assert_array_equal(result.arrays["codes"], recorded.codes)
    assert_near(result.latents[: len(recorded.f_hat[-1])], recorded.f_hat[-1], RUN)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_resident_loop_gives_the_loop_on_the_host(gpu_bundle, on_gpu, sampling: str) -> None:
    bundle = Bundle.open(gpu_bundle)
    networks = load_networks(bundle, Device.parse("cuda:0"), None)
    host = Pipeline(bundle, HostRunner(networks, hmar_model(bundle.manifest), load_codebook(bundle)))
    one, other = (pipeline.generate(LABELS[:8], seed=5, sampling=sampling) for pipeline in (host, on_gpu))
    assert_same(other, one)


@pytest.mark.parametrize("sampling", ["masked", "var"])
def test_edits_are_those_of_the_cpu(on_cpu, on_gpu, sampling: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 144, 144, 3), np.uint8)
    masks = np.zeros((8, 144, 144), np.bool_)
    for place in range(8):
        masks[place, : 15 + 16 * place, 30:] = True
    cpu, gpu = (each.edit(images, masks, LABELS[:8], seed=5, sampling=sampling) for each in (on_cpu, on_gpu))
    assert_same(gpu, cpu)
    np.testing.assert_array_equal(gpu.images[~masks], images[~masks])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_three_runs_are_equal_bit_for_bit(on_gpu, sampling: str) -> None:
    """The first runs directly, the second records its graphs, the third replays them."""
    fresh = on_gpu.clone()
    first, *others = (fresh.generate(LABELS[:8], seed=5, sampling=sampling) for _ in range(3))
    for other in others:
        assert_equal(other, first)


def test_previews_are_those_of_the_cpu(on_cpu, on_gpu) -> None:
    seen: list[list[np.ndarray]] = [[], []]
    for pipeline, previews in zip((on_cpu, on_gpu), seen, strict=True):
        pipeline.generate(LABELS[:3], seed=5, on_step=lambda step, previews=previews: previews.append(step.preview()))
    for one, other in zip(*seen, strict=True):
        assert_same_pixels(other, one)


@pytest.fixture
def recorded(gpu_bundle, monkeypatch) -> Pipeline:
    """A pipeline that records its runs in CUDA graphs, ONNX Runtime's too."""
    monkeypatch.setenv(GRAPHS_VARIABLE, "1")
    return Pipeline.load(gpu_bundle, device="cuda:0")


@pytest.mark.parametrize("sampling", ["masked", "nsp", "var"])
@pytest.mark.parametrize("batch", [1, 8])
def test_replayed_graphs_give_what_direct_runs_give(backend, on_gpu, recorded, batch: int, sampling: str) -> None:
    direct = on_gpu.generate(LABELS[:batch], seed=5, sampling=sampling)
    for _ in range(4):
        again = recorded.generate(LABELS[:batch], seed=5, sampling=sampling)
    lane = recorded._runner._lane
    if backend == "onnxruntime":
        engines = [each.loaded() if isinstance(each, DeferredEngine) else each for each in lane.engines.values()]
        runs = [run for engine in engines for run in engine._placed._runs.values()]
        assert runs and all(run.number != UNRECORDED and run.count > RUNS_BEFORE for run in runs)
    else:
        assert lane.replays._refusal is None
    assert_equal(again, direct)


def test_replays_follow_other_requests(on_gpu, recorded) -> None:
    """Seed, label, filters, guidance and how many cells a step redraws are in no graph."""
    for _ in range(4):
        recorded.generate(LABELS[:4], seed=5)
    changes = {"guidance": 0.7, "top_k": 9, "top_p": 0.8, "schedule": [[1], [2, 2]]}
    for batch, seed in ((5, 6), (4, 7), (8, 8), (4, 9)):
        one, other = (pipeline.generate(LABELS[-batch:], seed=seed, **changes) for pipeline in (on_gpu, recorded))
        assert_equal(other, one)


def test_images_of_several_seeds_are_those_of_each_alone_in_replays_too(on_cpu, recorded) -> None:
    labels, seeds = LABELS[:4], [9, 2**64 - 1, 9, 4]
    for _ in range(4):
        recorded.generate(labels, seed=5)  # recorded with other seeds
    assert_same(recorded.generate(labels, seeds=seeds), on_cpu.generate(labels, seeds=seeds))


@pytest.mark.parametrize("sampling", ["masked", "var"])
def test_only_labels_go_in_and_nothing_waits_before_the_end(on_gpu, sampling: str) -> None:
    fresh = on_gpu.clone()
    lane = fresh._runner._lane.device
    lane._cudart = counting = Counting(lane._cudart)  # before the first run, so that its graphs are counted too
    for _ in range(3):
        counting.calls.clear()
        fresh.generate(LABELS[:8], seed=6, sampling=sampling)
    waits = [number for number, name in enumerate(counting.calls) if "Synchronize" in name]
    downloads = [number for number, name in enumerate(counting.calls) if name == "cudaMemcpy"]
    assert len(downloads) == 4 and waits[0] < downloads[0]  # fault, codes, latents, pixels
    assert waits[0] > max(number for number, name in enumerate(counting.calls) if name == "cudaMemcpyAsync")
    assert not {"cudaMalloc", "cudaFree", "cudaGraphInstantiate"} & set(counting.calls)


def test_every_forward_is_one_graph_where_engines_can_be_recorded(on_gpu, backend) -> None:
    if backend == "onnxruntime":
        pytest.skip("ONNX Runtime records its runs itself")
    fresh = on_gpu.clone()
    for _ in range(2):
        fresh.generate(LABELS[:8], seed=6, sampling="masked")
    model, sampling = fresh.bundle.manifest.model, fresh.bundle.manifest.sampling["masked"]
    graphs = fresh._runner._lane.replays._graphs
    assert len(graphs) == len(plan(sampling, model.scales)) + 2 and all(graphs.values())  # conditions, decoder


@pytest.mark.parametrize("sampling", ["masked", "var"])
def test_clones_from_four_threads_give_what_one_gives(on_gpu, sampling: str) -> None:
    expected = [on_gpu.generate([label] * 3, seed=9, sampling=sampling) for label in range(4)]
    for one, other in zip(expected, from_four_threads(on_gpu, sampling=sampling), strict=True):
        assert_same(other, one)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_gives_images_of_the_same_kind(backend, build_hmar, on_gpu, tmp_path, precision: str) -> None:
    """A code that differs changes all that follow, so the first scale alone is compared: few codes may differ."""
    path = build_hmar(tmp_path / precision, f"--{precision}", "--backend", backend, "--max-batch", "8")
    half = Pipeline.load(path, device="cuda:0").generate(LABELS, seed=5)
    full = on_gpu.generate(LABELS, seed=5)
    assert np.isfinite(half.latents).all()
    assert (half.arrays["codes"][:, 0] == full.arrays["codes"][:, 0]).mean() >= 0.9
