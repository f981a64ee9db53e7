"""On a GPU, with every backend that is installed: the images of the CPU, a loop that never leaves the device, lanes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from himar_runtime import Bundle, Device, Pipeline, load_engine, load_networks
from himar_runtime.engines.ort.engine import RUNS_BEFORE
from himar_runtime.engines.ort.session import GRAPHS_VARIABLE, UNRECORDED
from himar_runtime.families.hi_mar.host import HostRunner
from himar_runtime.families.hi_mar.resident.runner import ResidentRunner
from tests.closeness import assert_near, assert_same_pixels
from tests.runtime.on_gpu import INSTALLED, Counting, from_four_threads

pytestmark = pytest.mark.gpu
LABELS = [i % 10 for i in range(64)]


@pytest.fixture(scope="module", params=INSTALLED)
def backend(request) -> str:
    if not INSTALLED[request.param]:
        pytest.skip(f"the backend {request.param} is not installed for CUDA here")
    return request.param


@pytest.fixture(scope="module")
def gpu_bundle(backend, build_digits, tmp_path_factory) -> Path:
    return build_digits(tmp_path_factory.mktemp(backend) / "digits", "--backend", backend)


@pytest.fixture(scope="module")
def on_cpu(digits_bundle) -> Pipeline:
    return Pipeline.load(digits_bundle)


@pytest.fixture(scope="module")
def on_gpu(gpu_bundle) -> Pipeline:
    pipeline = Pipeline.load(gpu_bundle, device="cuda:0")
    assert isinstance(pipeline._runner, ResidentRunner)
    return pipeline


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_the_gpu_gives_the_cpus_images(on_cpu, on_gpu, batch: int) -> None:
    cpu, gpu = (pipeline.generate(LABELS[:batch], seed=5) for pipeline in (on_cpu, on_gpu))
    assert_same_pixels(gpu.images, cpu.images)
    assert_near(gpu.latents, cpu.latents, 1e-3)


def test_solvers_give_the_cpus_images(on_cpu, on_gpu) -> None:
    short = {"low_diffusion_steps": 6, "high_diffusion_steps": 5, "temperature": 1.0}
    for solvers in ({"low_solver": "dpm++", "high_solver": "ddim"}, {"low_solver": "ddim", "high_solver": "dpm++"}):
        cpu, gpu = (pipeline.generate(LABELS[:8], seed=5, **short, **solvers) for pipeline in (on_cpu, on_gpu))
        assert_same_pixels(gpu.images, cpu.images)
        assert_near(gpu.latents, cpu.latents, 1e-3)


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_every_engine_gives_the_cpus_numbers_under_guidance(gpu_bundle, digits_bundle, batch: int) -> None:
    """Engines were wrong at batches above 1 alone, and guidance doubles the rows."""
    engines = load_networks(Bundle.open(gpu_bundle), Device.parse("cuda:0"), None).engines  # they keep their lane
    expected = load_networks(Bundle.open(digits_bundle), Device("cpu"), None).engines
    rng = np.random.default_rng(batch)
    rows = 2 * batch
    for name, engine in engines.items():
        inputs = {}
        for tensor in engine.spec.inputs:
            images = min(batch, engine.spec.profile.get("images", (0, 0, batch))[2])  # few are decoded at once
            axes = {"rows": rows, "samples": rows, "images": images, "kept": 0, "height": 8, "width": 8}
            axes["kept"] = engine.spec.profile.get("kept", (0, 0, 0))[1]
            shape = [axes[size] if isinstance(size, str) else size for size in tensor.shape]
            if tensor.dtype == "int64":
                most = {"timestep": 1000, "class_row": 11, "visible": shape[0] * shape[-1]}.get(tensor.name, rows)
                inputs[tensor.name] = rng.integers(0, most, shape)
            else:
                inputs[tensor.name] = rng.standard_normal(shape, np.float32)
        wanted = expected[name].run(inputs)
        for output, values in engine.run(inputs).items():
            assert_near(values, wanted[output], 1e-4, f"{name}: {output}")


def test_the_resident_loop_gives_the_loop_on_the_host(gpu_bundle, on_gpu) -> None:
    bundle = Bundle.open(gpu_bundle)
    networks = load_networks(bundle, Device.parse("cuda:0"), None)
    host = Pipeline(bundle, HostRunner(networks, bundle.manifest.model))
    one, other = (pipeline.generate(LABELS[:8], seed=5) for pipeline in (host, on_gpu))
    assert_near(one.latents, other.latents, 1e-4)


def test_three_runs_are_equal_bit_for_bit(on_gpu) -> None:
    """The first runs directly, the second records its graphs, the third replays them."""
    fresh = on_gpu.clone()
    first, *others = (fresh.generate(LABELS[:8], seed=5) for _ in range(3))
    for other in others:
        assert np.array_equal(first.latents, other.latents)
        assert np.array_equal(first.images, other.images)


@pytest.fixture
def recorded(gpu_bundle, monkeypatch) -> Pipeline:
    """A pipeline that records its runs in CUDA graphs, ONNX Runtime's too."""
    monkeypatch.setenv(GRAPHS_VARIABLE, "1")
    return Pipeline.load(gpu_bundle, device="cuda:0")


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_replayed_graphs_give_what_direct_runs_give(backend, on_gpu, recorded, batch: int) -> None:
    direct = on_gpu.generate(LABELS[:batch], seed=5)
    for _ in range(4):
        again = recorded.generate(LABELS[:batch], seed=5)
    lane = recorded._runner._lane
    if backend == "onnxruntime":
        runs = [run for engine in lane.engines.values() for run in engine._placed._runs.values()]
        assert runs and all(run.number != UNRECORDED and run.count > RUNS_BEFORE for run in runs)
    else:
        assert lane.replays._refusal is None
    assert np.array_equal(direct.latents, again.latents)
    assert np.array_equal(direct.images, again.images)


def test_replays_follow_other_requests_and_leave_room_for_direct_runs_between(on_gpu, recorded) -> None:
    """Memory that a graph holds on to is ONNX Runtime's to give to runs of other shapes."""
    for _ in range(4):
        recorded.generate(LABELS[:4], seed=5)
    for batch, seed in ((9, 6), (4, 7), (64, 8), (4, 9)):
        one, other = (pipeline.generate(LABELS[:batch], seed=seed) for pipeline in (on_gpu, recorded))
        assert np.array_equal(one.latents, other.latents)


def test_images_of_several_seeds_are_those_of_each_alone_in_replays_too(on_gpu, on_cpu, recorded) -> None:
    labels, seeds = LABELS[:4], [9, 2**64 - 1, 9, 4]
    for _ in range(4):
        recorded.generate(labels, seed=5)  # recorded with other seeds
    together = recorded.generate(labels, seeds=seeds)
    assert np.array_equal(together.latents, on_gpu.generate(labels, seeds=seeds).latents)
    for image, (label, seed) in enumerate(zip(labels, seeds, strict=True)):
        assert_near(together.latents[image], on_cpu.generate([label], seed=seed).latents[0], 1e-4)


def test_lanes_that_record_at_once_give_what_one_gives(on_gpu, recorded) -> None:
    expected = [on_gpu.generate([label] * 3, seed=9).latents for label in range(4)]
    found = from_four_threads(recorded)
    for one, other in zip(expected, found, strict=True):
        assert_near(one, other.latents, 1e-4)


def test_the_host_waits_for_nothing_before_the_end(on_gpu) -> None:
    fresh = on_gpu.clone()
    lane = fresh._runner._lane.device
    lane._cudart = counting = Counting(lane._cudart)  # before the first run, so that its graphs are counted too
    for _ in range(3):
        counting.calls.clear()
        fresh.generate(LABELS, seed=6)
    sampling = next(iter(fresh.bundle.manifest.sampling.values()))
    waits = [number for number, name in enumerate(counting.calls) if "Synchronize" in name]
    copies = [number for number, name in enumerate(counting.calls) if name == "cudaMemcpyAsync" and number < waits[0]]
    uploads = 7  # of a request, before its first launch
    assert len(copies) >= uploads + sampling.low_steps + sampling.high_steps  # a step begins with a copy of its state
    assert not {"cudaMalloc", "cudaFree", "cudaGraphInstantiate"} & set(counting.calls)


def test_the_device_is_still_busy_when_the_host_has_queued_everything(on_gpu, backend) -> None:
    """An event before the last high step is not passed yet when the host is done: the host runs ahead."""
    if backend == "onnxruntime":
        pytest.skip("ONNX Runtime's host work per run may be as long as a small engine's on the device")
    from himar_kernels import PhiloxDraws
    from himar_kernels.families.hi_mar import plan
    from himar_runtime.families.hi_mar.loop import Request, what_rows_show
    from himar_runtime.families.hi_mar.resident.loop import begin, queue_step
    from himar_runtime.queue.cuda.driver import call, runtime_api

    on_gpu.generate(LABELS, seed=1)
    lane = on_gpu._runner._lane
    sampling = next(iter(on_gpu.bundle.manifest.sampling.values()))
    request = Request(np.array(LABELS), np.arange(64), sampling, PhiloxDraws(1))
    cudart = runtime_api()
    lane.device.make_current()
    event = call(cudart.cudaEventCreateWithFlags, cudart.cudaEventDisableTiming)
    steps = plan(sampling, lane.model.low_positions, lane.model.high_positions)
    work = begin(lane, request, what_rows_show(on_gpu._runner._networks, lane.model, request, None))
    for index, step in enumerate(steps):
        if index == len(steps) - 1:
            call(cudart.cudaEventRecord, event, lane.device.stream)
        queue_step(work, index, step)
    (status,) = cudart.cudaEventQuery(event)
    lane.device.synchronize()
    call(cudart.cudaEventDestroy, event)
    assert status == cudart.cudaError_t.cudaErrorNotReady


def test_an_output_stays_on_the_gpu_and_feeds_the_next_engine(gpu_bundle) -> None:
    head = load_engine(Bundle.open(gpu_bundle), "dit_head", Device.parse("cuda:0"), None)
    spec = {tensor.name: tensor.shape[1:] for tensor in head.spec.inputs}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, *spec["x"]), np.float32)
    condition = rng.standard_normal((4, *spec["condition"]), np.float32)
    timestep = np.array([500])
    kept = head.run_on_device({"x": x, "timestep": timestep, "condition": condition})["prediction"]
    once = kept.numpy()
    other = head.clone()
    twice = other.run({"x": kept, "timestep": timestep, "condition": condition})["prediction"]
    again = other.run({"x": once, "timestep": timestep, "condition": condition})["prediction"]
    np.testing.assert_array_equal(twice, again)


def test_clones_from_four_threads_give_what_one_gives(on_gpu) -> None:
    expected = [on_gpu.generate([label] * 3, seed=9).latents for label in range(4)]
    found = from_four_threads(on_gpu)
    for one, other in zip(expected, found, strict=True):
        assert_near(one, other.latents, 1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_gives_nearly_the_full_ones_images(backend, build_digits, on_gpu, tmp_path, precision) -> None:
    path = build_digits(tmp_path / precision, f"--{precision}", "--backend", backend)
    images = Pipeline.load(path, device="cuda:0").generate(LABELS[:10], seed=5).images
    full = on_gpu.generate(LABELS[:10], seed=5).images
    assert np.abs(images.astype(int) - full).mean() <= (2 if precision == "fp16" else 6)


def test_the_engines_need_no_more_memory_than_the_eager_model(gpu_bundle) -> None:
    import torch

    import himar
    from himar_kernels import PhiloxDraws
    from himar_runtime.queue.cuda.driver import call, runtime_api

    weights = Path(himar.__file__).parent / "weights" / "digits.safetensors"
    model = himar.load_checkpoint(weights).to("cuda")
    torch.cuda.reset_peak_memory_stats()
    himar.generate(model, LABELS, draws=PhiloxDraws(5))
    eager = torch.cuda.max_memory_allocated()
    del model
    torch.cuda.empty_cache()
    cudart = runtime_api()
    before, _ = call(cudart.cudaMemGetInfo)
    pipeline = Pipeline.load(gpu_bundle, device="cuda:0")
    pipeline.generate(LABELS, seed=5)
    after, _ = call(cudart.cudaMemGetInfo)
    # A library's own context and workspaces are counted with the engines, not with eager.
    assert before - after <= eager + (1 << 30)
