"""What a bundle takes of a GPU's memory: the arithmetic on figures, and on a GPU the figures themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_export.memory import gpu_child
from himar_export.memory.measure import runs_on_gpu
from himar_kernels import BundleError
from himar_runtime import Bundle, Device, Manifest, Pipeline
from himar_runtime.families.family import runtime_family
from himar_runtime.memory.available import available_memory
from himar_runtime.memory.prediction import predict
from tests.runtime.on_gpu import INSTALLED

FIGURES = {"loaded": 5_000_000, "images": [1, 4], "runs": [1_000_000, 4_000_000], "most": 64}


def described(bundle: Path, runner: str, **gpu: Any) -> Manifest:
    """Return a bundle's manifest as one that `runner` runs, with figures of a GPU's memory."""
    manifest = Bundle.open(bundle).manifest
    entries = {name: {**FIGURES, "loaded": 5_000_000 + place} for place, name in enumerate(manifest.components)}
    found = {"by": "a test", "backend": runner, "once": 70_000_000, "components": entries, **gpu}
    components = {name: replace(spec, backend=runner) for name, spec in manifest.components.items()}
    return replace(manifest, components=components, raw={**manifest.raw, "memory": {"components": {}, "gpu": found}})


def test_lanes_queue_the_runs_of_a_session_one_after_another(bundle_path) -> None:
    one, three = (predict(described(bundle_path, "onnxruntime"), 2, lanes, "cuda") for lanes in (1, 3))
    count = len(one.components)
    assert one.loaded == three.loaded == 70_000_000 + count * 5_000_000 + sum(range(count))
    assert (one.runs - one.buffers, three.runs - 3 * one.buffers) == (count * 2_000_000, count * 2_000_000)
    assert one.buffers > 0 and one.source == "measured when the bundle was built, by a test"


def test_the_tensorrt_engines_of_a_lane_share_the_memory_of_the_largest(bundle_path) -> None:
    manifest = described(bundle_path, "tensorrt")
    manifest.raw["memory"]["gpu"]["components"]["dit_head"] = {**FIGURES, "images": [1], "runs": [9_000_000], "most": 1}
    for images in (1, 4):
        found = predict(manifest, images, 3, "cuda")
        assert found.runs == 3 * (9_000_000 + found.buffers)


def test_figures_of_another_backend_or_device_do_not_count(bundle_path) -> None:
    manifest = described(bundle_path, "tensorrt")
    for found in (predict(manifest, 1, 1, "cuda", "onnxruntime"), predict(manifest, 1)):
        assert found.once == 0 and found.runs == found.buffers
        assert all(each.loaded == each.weights and each.run is None for each in found.components)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"once": -1}, "memory.gpu.once is -1; it must be at least 0"),
        ({"backend": 3}, "memory.gpu.backend is 3; it must be of type str"),
        ({"components": {"x": {**FIGURES, "images": [2, 1]}}}, 'memory.gpu.components.x is {"loaded":5000000,'),
    ],
)
def test_wrong_figures_of_a_gpu_are_refused(bundle_path, wrong, sentence) -> None:
    with pytest.raises(BundleError) as caught:
        predict(described(bundle_path, "onnxruntime", **wrong), 1, device="cuda")
    assert sentence in str(caught.value)


def test_modulations_that_the_default_setting_holds_count(make_bundle) -> None:
    manifest = Bundle.open(make_bundle(held=True)).manifest
    name, default = next(iter(manifest.sampling.items()))
    holding = replace(manifest, sampling={**manifest.sampling, name: replace(default, modulation_interval=4)})
    family = runtime_family(manifest.family)
    [maker, head] = family.first_needed(holding)
    spec = manifest.components[maker]
    floats = sum(math.prod(tensor.shape[1:]) for tensor in spec.outputs)
    more = family.resident_bytes(holding) - family.resident_bytes(manifest)
    assert more == 2 * manifest.max_batch * floats * np.dtype(spec.outputs[0].dtype).itemsize > 0
    for device in ("cpu", "cuda"):
        late = {each.name for each in predict(holding, 1, device=device).components if each.deferred}
        assert {maker, head} & late == set()
        assert {maker, head} <= {each.name for each in predict(manifest, 1, device=device).components if each.deferred}


def test_caches_count_where_the_default_setting_sees_all_scales(tiny_hmar_path) -> None:
    manifest = Bundle.open(tiny_hmar_path).manifest
    name, default = next(iter(manifest.sampling.items()))
    seeing = replace(manifest, sampling={**manifest.sampling, name: replace(default, all_scales=True, schedule=())})
    family = runtime_family(manifest.family)
    assert family.first_needed(manifest) == ()
    assert {*family.first_needed(seeing)} <= {*manifest.model.deferred}
    assert family.resident_bytes(seeing) > family.resident_bytes(manifest) > 0


def test_what_a_build_measures_is_what_is_read(make_bundle, edit_manifest, monkeypatch) -> None:
    folder = make_bundle(held=True)

    def complete(manifest: dict[str, Any]) -> None:
        for name, component in manifest["components"].items():
            largest = 8 if name == "vae_decoder" else 128
            axes = {axis for tensor in component["outputs"] for axis in tensor["shape"] if isinstance(axis, str)}
            component["profile"] |= {axis: [1, 2, largest] for axis in axes}

    edit_manifest(folder, complete)
    bundle = Bundle.open(folder)
    most = bundle.manifest.max_batch

    def forked(task: Any, what: str) -> Any:  # as on a GPU of 1 MB for each image, 5 MB a graph, 40 MB of libraries
        if task is gpu_child.gpu_name:
            return "a GPU"
        _, _, images = task.args
        return [5_000_000, 1_000_000 * images, 46_000_000]

    monkeypatch.setattr(gpu_child, "forked", forked)
    found = gpu_child.measure(bundle)
    assert found["once"] == 40_000_000 and found["by"].endswith(" on a GPU")
    manifest = replace(bundle.manifest, raw={**bundle.manifest.raw, "memory": {"components": {}, "gpu": found}})
    for images in (1, 3, most):
        predicted = predict(manifest, images, device="cuda")
        for each in predicted.components:
            assert each.run == 1_000_000 * (min(images, 8) if each.name == "vae_decoder" else images)
        loaded = sum(not each.deferred for each in predicted.components)
        assert predicted.loaded == 40_000_000 + 5_000_000 * loaded


def test_libraries_are_what_the_first_engine_added_less_its_own() -> None:
    assert gpu_child.once({"loaded": 5, "runs": [2, 9]}, 100) == 93
    assert gpu_child.once({"loaded": 5, "runs": [2]}, 6) == 0


def test_without_a_gpu_none_is_measured() -> None:
    assert not runs_on_gpu("onnxruntime", {"a": "int8"}, "cpu")
    assert not runs_on_gpu("tensorrt", {"a": "fp16"}, "cpu")
    assert runs_on_gpu("tensorrt", {"a": "fp16"}, "cuda")
    if not INSTALLED["onnxruntime"]:
        assert not runs_on_gpu("onnxruntime", {"a": "fp16"}, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", INSTALLED)
def test_a_build_measures_a_gpu_and_loading_takes_about_that(backend, build_digits, tmp_path) -> None:
    if not INSTALLED[backend]:
        pytest.skip(f"the backend {backend} is not installed for CUDA here")
    bundle = build_digits(tmp_path / "digits", "--backend", backend, "--memory")
    found = predict(Bundle.open(bundle).manifest, 64, device="cuda")
    assert all(each.run is not None for each in found.components) and found.total > found.buffers > 0
    before = available_memory(Device("cuda"))
    pipeline = Pipeline.load(bundle, device="cuda")
    pipeline.generate([0] * 64, seed=1, low_diffusion_steps=4, high_diffusion_steps=4)
    after = available_memory(Device("cuda"))
    assert before is not None and after is not None
    assert 0.5 * found.total < before.bytes - after.bytes < 1.5 * found.total
