"""NVIDIA's Polygraphy takes our graphs as they are: it runs them and compares what they give.

Left to itself it feeds integers of 0 and 1 alone, takes every dynamic size for 1, and pairs outputs of other names with
one warning; so the inputs are given their ranges and sizes here, and the names are compared first.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_runtime import Bundle, ComponentSpec, Device, load_networks

pytest.importorskip("polygraphy", reason="needs Polygraphy: pip install 'himar[dev]'")

from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, DataLoader, SimpleCompareFunc

NAMES = ("transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder")
ROWS = 3


def shapes(spec: ComponentSpec) -> dict[str, tuple[int, ...]]:
    """Return a shape of every input: of the dynamic sizes ROWS, or the least there is."""
    sizes = {axis: max(least, min(ROWS, most)) for axis, (least, _, most) in spec.profile.items()}
    return {each.name: tuple(sizes.get(size, size) for size in each.shape) for each in spec.inputs}


def ranges(spec: ComponentSpec, model: dict[str, Any], given: dict[str, tuple[int, ...]]) -> dict[str, tuple]:
    """Return least and largest value of every input; integers are rows of tables."""
    found: dict[str, tuple] = {each.name: (-1.0, 1.0) for each in spec.inputs}
    if "timestep" in found:
        found["timestep"] = (0, 999)
    if "visible" in found:
        rows, kept = given["visible"]
        always = spec.profile["kept"][0]  # buffer and pivots
        found["class_row"] = (0, model["classes"])
        found["visible"] = (0, rows * always - 1)
        found["sources"] = (0, rows * kept + given["sources"][1] - model["buffer"] - 1)
    return found


def loader(bundle: Path, name: str) -> tuple[ComponentSpec, DataLoader]:
    """Return a component's tensors, and Polygraphy's loader of two sets of inputs."""
    opened = Bundle.open(bundle)
    spec = opened.manifest.components[name]
    given = shapes(spec)
    metadata = TensorMetadata()
    for each in spec.inputs:
        # An integer input (1,) whose shape is named would be taken for a shape itself, and fed 1, whatever its range.
        if given[each.name] != each.shape:
            metadata.add(each.name, np.dtype(each.dtype), given[each.name])
    values = ranges(spec, opened.manifest.raw["model"], given)
    return spec, DataLoader(seed=7, iterations=2, input_metadata=metadata, val_range=values)


@pytest.mark.parametrize("fixture", ["digits_bundle", "digits_fp16_bundle"])
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_runs_and_compares_under_polygraphy(request, name, fixture):
    bundle = request.getfixturevalue(fixture)
    spec, inputs = loader(bundle, name)
    file = str(bundle / f"{name}.onnx")
    plain, fused = (
        OnnxrtRunner(SessionFromOnnx(file, providers=["CPUExecutionProvider"]), name=each) for each in ("one", "two")
    )
    results = Comparator.run([plain, fused], data_loader=inputs)
    outputs = [list(iteration) for _, iterations in results.items() for iteration in iterations]
    assert outputs == [[each.name for each in spec.outputs]] * 4
    assert bool(Comparator.compare_accuracy(results, compare_func=SimpleCompareFunc(rtol=1e-5, atol=1e-5)))
    assert Comparator.validate(results, check_nan=True, check_inf=True)


def test_polygraphy_gives_what_the_runtime_gives(digits_bundle):
    """And the integers that it feeds are more than 0 and 1."""
    networks = load_networks(Bundle.open(digits_bundle), Device.parse("cpu"), 1)
    for name in NAMES:
        spec, inputs = loader(digits_bundle, name)
        with OnnxrtRunner(SessionFromOnnx(str(digits_bundle / f"{name}.onnx"))) as runner:
            inputs.input_metadata = runner.get_input_metadata(use_numpy_dtypes=False)
            for feed in inputs:
                found = runner.infer(feed)
                expected = networks[name].run(feed)
                assert list(found) == list(expected)
                for output, values in expected.items():
                    error = np.linalg.norm(found[output] - values)
                    assert error <= 1e-5 * np.linalg.norm(values), (name, output)
                integers = [feed[each.name] for each in spec.inputs if each.dtype == "int64"]
                assert all(array.max() > 1 for array in integers)
    assert json.loads((digits_bundle / "manifest.json").read_text())["components"].keys() == set(NAMES)
