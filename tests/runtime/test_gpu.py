"""ONNX Runtime's CUDA provider behind the same protocol: the same images as on the CPU, and tensors that stay there."""

import threading

import numpy as np
import pytest

from himar_runtime import Bundle, Device, Pipeline, load_engine

pytestmark = pytest.mark.gpu
LABELS = [i % 10 for i in range(64)]


@pytest.fixture(scope="module")
def on_cpu(digits_bundle):
    return Pipeline.load(digits_bundle)


@pytest.fixture(scope="module")
def on_gpu(digits_bundle):
    return Pipeline.load(digits_bundle, device="cuda:0")


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_the_gpu_gives_the_cpus_images(on_cpu, on_gpu, batch):
    cpu = on_cpu.generate(LABELS[:batch], seed=5)
    gpu = on_gpu.generate(LABELS[:batch], seed=5)
    assert np.abs(gpu.images.astype(np.int16) - cpu.images.astype(np.int16)).max() <= 1
    assert np.linalg.norm(gpu.latents - cpu.latents) <= 1e-3 * np.linalg.norm(cpu.latents)


def test_two_runs_on_the_gpu_are_equal(on_gpu):
    first, second = (on_gpu.generate(LABELS[:8], seed=5) for _ in range(2))
    assert np.array_equal(first.latents, second.latents)


def test_an_output_stays_on_the_gpu_and_feeds_the_next_engine(digits_bundle):
    bundle, device = Bundle.open(digits_bundle), Device.parse("cuda:0")
    head = load_engine(bundle, "dit_head", device, None)
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


def test_clones_from_four_threads_give_what_one_gives(on_gpu):
    expected = [on_gpu.generate([label], seed=9).latents for label in range(4)]
    found: list = [None] * 4

    def lane(number: int) -> None:
        found[number] = on_gpu.clone().generate([number], seed=9).latents

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_bfloat16_bundle_runs_on_the_gpu(digits_bf16_bundle, on_gpu):
    images = Pipeline.load(digits_bf16_bundle, device="cuda:0").generate(LABELS[:10], seed=5).images
    full = on_gpu.generate(LABELS[:10], seed=5).images
    assert np.abs(images.astype(np.int16) - full.astype(np.int16)).mean() <= 6
