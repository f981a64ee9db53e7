"""A component in PyTorch behind the runtime's interface of an engine, in every loop that takes engines."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from himar.family import open_model
from himar_export.bench.eager_engine import EagerEngine, TorchArray, _CudaMemory, tensor_at
from himar_export.bench.eager_text import eager_tower, text_call
from himar_export.bench.time_breakdown import Clock
from himar_export.families.bench import family_bench
from himar_kernels import EngineError
from himar_runtime import Bundle, ComponentSpec, Device, Networks, Pipeline, TensorSpec, load_networks
from himar_runtime.families.hi_mar.resident.runner import ResidentRunner as HiMarResident
from himar_runtime.families.hmar.resident.runner import ResidentRunner as HmarResident
from himar_runtime.queue.device import DeviceTensor, ResidentEngine
from tests.closeness import COMPONENT, RUN, assert_near, assert_same_pixels
from tests.export import graph_engines, text_towers
from tests.export.test_variant_loops import GUIDED, OTHERS
from tests.himar.small_edits import IMAGES, holes, small_vae
from tests.runtime import host_lane

GOLDEN = Path(__file__).parents[1] / "golden"

SPEC = ComponentSpec(
    "twice", "twice.onnx", "fp32",
    (TensorSpec("x", "float32", ("rows", 2)), TensorSpec("by", "int64", (1,))),
    (TensorSpec("y", "float32", ("rows", 2)),),
    {"rows": (1, 2, 4)}, "onnxruntime", "twice.onnx",
)  # fmt: skip
CPU = torch.device("cpu")


def times(inputs):
    return {"y": inputs["x"] * inputs["by"]}


def eager(engines: Networks, model: Any, vae: Any) -> dict[str, EagerEngine]:
    """Return every component that eager has, as engines in the place of a family's own."""
    family = family_bench(model.family)
    networks = family.eager_networks(model, vae, {})
    calls = family.eager_calls(model)
    return {
        name: EagerEngine(engine.spec, functools.partial(calls[name], networks), CPU)
        for name, engine in engines.engines.items()
    }


def mixed(networks: Networks, engines: Mapping[str, EagerEngine], *names: str) -> Networks:
    """Return networks with these engines, or with those named among them."""
    return Networks({**networks.engines, **{name: engines[name] for name in names or engines}})


def on_lane(networks: Networks, kernels: Any) -> Networks:
    return host_lane.on_host_lane(networks, host_lane.HostLane(kernels), "each run is queued anew")


@pytest.fixture(scope="module")
def hmar(hmar_bundle) -> tuple[Bundle, Networks, dict[str, EagerEngine]]:
    opened = Bundle.open(hmar_bundle)
    model: Any = open_model(GOLDEN / "hmar-narrow-144.pth", GOLDEN / "hmar-narrow-144.json")[0]
    vae = family_bench("hmar").load_vae(GOLDEN / "hmar-vae-narrow.pth", model)
    networks = load_networks(opened, Device("cpu"), 1)
    return opened, networks, eager(networks, model.eval().requires_grad_(False), vae.eval().requires_grad_(False))


def test_it_keeps_the_contract_of_an_engine():
    engine = EagerEngine(SPEC, times, CPU)
    assert isinstance(engine, ResidentEngine) and engine.recordable == "PyTorch runs twice"
    x = np.arange(6.0).reshape(3, 2)
    engine.bind({"x": x, "by": np.array([2])})
    expected = 2 * x
    x += 100  # what is bound was uploaded
    outputs = engine.run({})
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], expected)
    left = engine.run_on_device({"by": np.array([3])})["y"]
    assert isinstance(left, TorchArray) and left.shape == (3, 2)
    other = engine.clone()
    np.testing.assert_array_equal(other.run({"x": left, "by": np.array([4])})["y"], 6 * expected)
    assert engine.calls == other.calls == 3  # of both
    with pytest.raises(EngineError, match="twice has no input 'z'; it has x, by"):
        engine.bind({"z": x})
    with pytest.raises(EngineError, match=r"inputs missing: \['by'\]"):
        EagerEngine(SPEC, times, CPU).run({"x": x})
    with pytest.raises(EngineError, match=r"input x has shape \(3, 1\); it takes \('rows', 2\)"):
        engine.run({"x": x[:, :1]})
    with pytest.raises(EngineError, match="twice failed on cpu in PyTorch: KeyError: 'gone'"):
        EagerEngine(SPEC, lambda inputs: {"y": inputs["gone"]}, CPU).run({"x": x, "by": np.array([2])})


def test_it_reads_and_writes_tensors_where_they_lie():
    engine = EagerEngine(SPEC, times, CPU)
    x, by, y = np.ones((2, 2), np.float32), np.array([5]), np.zeros((4, 2), np.float32)
    places = {"x": DeviceTensor(x.ctypes.data, (2, 2)), "by": DeviceTensor(by.ctypes.data, (1,))}
    engine.enqueue({**places, "y": DeviceTensor(y.ctypes.data, (2, 2))})
    np.testing.assert_array_equal(y, [[5, 5], [5, 5], [0, 0], [0, 0]])
    x[:] = 2  # the same places, seen again
    engine.enqueue({**places, "y": DeviceTensor(y.ctypes.data + 16, (2, 2))})
    np.testing.assert_array_equal(y[2:], [[10, 10], [10, 10]])
    with pytest.raises(EngineError, match="twice needs x, by, y in place; y differ"):
        engine.enqueue(places)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", COMPONENT), ("fp16", 5e-3), ("bf16", 4e-2)])
def test_a_text_tower_runs_in_its_components_precision(precision, limit):
    tower, clock = text_towers.tower(), Clock()
    ids = torch.arange(2 * tower.config.positions).reshape(2, -1) % tower.config.vocabulary
    weights = {name: value.clone() for name, value in tower.state_dict().items()}
    found = text_call(eager_tower(tower, {"text_encoder": precision}, clock))({"tokens": ids})["context"]
    assert found.dtype == torch.float32 and clock.calls == {"text_encoder": 1}
    expected = tower(ids).detach()
    assert_near(found.detach(), expected, limit)
    assert torch.equal(found, expected) == (precision == "fp32")
    assert all(torch.equal(value, weights[name]) for name, value in tower.state_dict().items())


def test_device_memory_is_described_to_pytorch_as_it_is():
    described = _CudaMemory(DeviceTensor(4096, (2, 3)), "float16").__cuda_array_interface__
    assert described == {"shape": (2, 3), "typestr": "<f2", "data": (4096, False), "version": 3}
    assert _CudaMemory(DeviceTensor(1, (1,)), "int64").__cuda_array_interface__["typestr"] == "<i8"
    assert tensor_at(DeviceTensor(0, (2, 0, 3)), CPU, "float32").shape == (2, 0, 3)  # nothing lies at no address


@pytest.mark.parametrize("name", ["learned", "single-scale", "visual", "dit-both", "visual-dit-low"])
def test_the_loop_of_hi_mar_runs_every_component(small_variant, name):
    """Images and edits: all that eager has is called, and gives what the graphs give."""
    model, vae = small_variant({} if name == "learned" else OTHERS.get(name, name)), small_vae()
    networks = graph_engines.graph_networks(model, vae=vae)
    engines, bundle = eager(networks, model, vae), graph_engines.bundle_of(model, networks)
    ours, theirs = Pipeline(bundle, mixed(networks, engines)), Pipeline(bundle, networks)
    one, other = (each.generate([2, 1], seed=5, sampling=GUIDED) for each in (ours, theirs))
    assert_near(one.latents, other.latents, RUN)
    assert_same_pixels(one.images, other.images)
    one, other = (each.edit(IMAGES, list(holes()), [0, 2, 1, 2], seed=6, sampling=GUIDED) for each in (ours, theirs))
    assert_near(one.latents, other.latents, RUN)
    assert {name for name, engine in engines.items() if engine.calls} == set(networks.engines)


@pytest.mark.parametrize("names", [("mlp_head",), ("transformer_high", "dit_head", "vae_decoder"), ()], ids=str)
def test_the_resident_loop_takes_it_on_its_own_buffers(small_variant, host_kernels, names):
    """In host memory: a GPU's loop hands its buffers over in the same way."""
    model, vae = small_variant({}), small_vae()
    networks = graph_engines.graph_networks(model, vae=vae)
    engines, bundle = eager(networks, model, vae), graph_engines.bundle_of(model, networks)
    ours = Pipeline(bundle, on_lane(mixed(networks, engines, *names), host_kernels))
    assert isinstance(ours._runner, HiMarResident)
    one, other = (each.generate([2, 1], seed=5, sampling=GUIDED) for each in (ours, Pipeline(bundle, networks)))
    assert_near(one.latents, other.latents, RUN)
    assert_same_pixels(one.images, other.images)
    assert all(engines[name].calls for name in names)


@pytest.mark.slow
def test_the_loops_of_hmar_run_every_component(hmar, host_kernels):
    bundle, networks, engines = hmar
    theirs = Pipeline(bundle, networks)
    ours = Pipeline(bundle, mixed(networks, engines)), Pipeline(bundle, on_lane(mixed(networks, engines), host_kernels))
    assert isinstance(ours[1]._runner, HmarResident)
    settings = bundle.manifest.sampling["masked"].with_changes(top_k=20)
    for sampling in (settings, dataclasses.replace(settings, schedule=(), all_scales=True)):
        expected = theirs.generate([2, 5, 0], seed=11, sampling=sampling)
        for pipeline in ours:
            found = pipeline.generate([2, 5, 0], seed=11, sampling=sampling)
            np.testing.assert_array_equal(found.arrays["codes"], expected.arrays["codes"])
            assert_near(found.latents, expected.latents, COMPONENT)
            assert_same_pixels(found.images, expected.images)
    mask = np.zeros(expected.images.shape[1:3], bool)
    mask[40:90, 30:] = True
    one, two = (each.edit(expected.images, mask, [2, 5, 0], seed=3, sampling=settings) for each in (ours[0], theirs))
    np.testing.assert_array_equal(one.arrays["codes"], two.arrays["codes"])
    assert {name for name, engine in engines.items() if engine.calls} == set(bundle.manifest.components)
