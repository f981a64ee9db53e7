"""`himar-export debug` names the layer that is wrong, and the layers that have to be float32 for a limit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

pytest.importorskip("polygraphy", reason="needs Polygraphy: pip install 'himar[debug]'")

from himar import load_checkpoint, save_checkpoint
from himar_export.cli import main
from himar_export.debug.inputs import recorded_inputs
from himar_export.debug.runs import reference, run
from himar_export.debug.search import search
from himar_export.graph.emulate import emulated, read_graph
from himar_runtime import Bundle
from tests.export.damage import damaged_copy

FACTOR = 2.0**15
LARGE = "final.modulation"
"""Of the DiT head: its results times FACTOR, and the weights of the last matmul divided by it, are the same model, and
beyond float16."""


def build(checkpoint: Path, out: Path, *options: str) -> int:
    return main(["build", str(checkpoint), "--max-batch", "3", *options, "--out", str(out), "--json"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_checkpoint) -> Path:
    """1.safetensors and its bundle in fp16; large.safetensors with the fault, and its bundle in fp32."""
    folder = tmp_path_factory.mktemp("debug")
    model = load_checkpoint(small_checkpoint(folder / "1.safetensors", 1))
    assert build(folder / "1.safetensors", folder / "half", "--fp16") == 0
    last = model.dit_head.final_layer
    with torch.no_grad():
        modulation = last.adaLN_modulation[1]
        width = len(modulation.bias) // 2
        modulation.weight *= 6 * FACTOR  # random weights alone would not reach float16's end
        modulation.bias *= FACTOR
        modulation.bias[width:] += FACTOR - 1  # of 1 + scale
        last.linear.weight /= FACTOR
    save_checkpoint(model, folder / "large.safetensors")
    assert build(folder / "large.safetensors", folder / "bundle") == 0
    return folder


def debug(capsys, *arguments: object) -> tuple[int, dict]:
    capsys.readouterr()
    code = main(["debug", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: object, code: int = 1) -> str:
    capsys.readouterr()
    assert main(["debug", *map(str, arguments)]) == code
    return capsys.readouterr().err


def own_errors(report: dict) -> dict[str, float | None]:
    return {layer["name"]: layer["own"] for layer in report["layers"]}


def test_an_overflow_is_named_searched_and_avoided(capsys, folder, tmp_path):
    """From a fault that ONNX Runtime's CPU kernels hide to a build without it: build takes what debug prints."""
    checkpoint = folder / "large.safetensors"
    options = ("--component", "dit_head", "--precision", "fp16", "--checkpoint", checkpoint)
    code, report = debug(capsys, folder / "bundle", *options)
    assert code == 1 and report["passed"] is False
    assert report["first"] == report["culprit"] == LARGE
    wrong = next(layer for layer in report["layers"] if layer["name"] == LARGE)
    assert wrong["lost"] == "Inf" and wrong["error"] is None  # infinite
    assert wrong["precision"] == "fp16" and wrong["largest"] > np.finfo(np.float16).max
    assert report["eager_error"] < 1e-5
    assert report["fp32_layers"] == {"dit_head": [LARGE]}
    assert report["kept"]["error"] <= report["limit"]
    (file := tmp_path / "debug.json").write_text(json.dumps(report))
    assert build(checkpoint, tmp_path / "passes", "--fp16", "--fp32-layers", str(file)) == 0
    code, again = debug(capsys, tmp_path / "passes", "--component", "dit_head", "--checkpoint", checkpoint)
    assert code == 0 and again["first"] is None
    kept = next(layer for layer in again["layers"] if layer["name"] == LARGE)
    assert kept["precision"] == "fp32" and kept["own"] < 1e-2
    # Mixtures are computed as such a build computes: the error that was foretold is the built bundle's.
    assert again["output_error"] == pytest.approx(report["kept"]["error"], rel=0.3)


def test_a_build_sees_an_overflow_that_the_cpus_kernels_hide(capsys, folder, tmp_path):
    capsys.readouterr()
    assert build(folder / "large.safetensors", tmp_path / "none", "--fp16") == 1
    message = capsys.readouterr().err
    assert f"the result of {LARGE} of dit_head, is beyond fp16, which ends at 65,504" in message
    assert f"--fp32-layers dit_head={LARGE}" in message
    assert "himar-export debug BUNDLE --component dit_head --precision fp16 --checkpoint CHECKPOINT" in message
    assert not list(tmp_path.iterdir())


def test_half_precision_inputs_are_taken_as_they_are(capsys, build_variant):
    """What lies between the two parts of a head is in half precision."""
    bundle = build_variant("dit-both", "--held-modulations", "--fp16")
    name = next(name for name in Bundle.open(bundle).manifest.components if name.endswith("_held"))
    code, report = debug(capsys, bundle, "--component", name)
    assert code == 0 and report["layers"][-1]["name"] == "output prediction"


def test_layers_after_the_wrong_one_inherit_its_error_and_have_none_of_their_own(capsys, folder, damaged):
    code, report = debug(capsys, damaged("blocks.0.fc1.weight"), "--component", "dit_head", *CHECKPOINT(folder))
    assert code == 1
    assert report["culprit"] == "blocks.0.fc1"
    own = own_errors(report)
    assert own["blocks.0.fc1"] > 0.5
    assert all(error < 5e-3 for name, error in own.items() if name != "blocks.0.fc1")
    after = next(layer for layer in report["layers"] if layer["name"] == "blocks.0.fc2")
    assert after["error"] > 20 * after["own"]
    assert report["fp32_layers"] == {"dit_head": ["blocks.0.fc1"]}


def test_damaged_weights_are_not_seen_without_the_checkpoint(capsys, damaged):
    """The reference has the bundle's own weights then; docs/debugging.md says so."""
    assert main(["debug", str(damaged("blocks.0.fc1.weight")), "--component", "dit_head", "--limit", "1e-2"]) == 0
    out = capsys.readouterr().out
    assert "No layer leaves the reference by more than 1e-02." in out
    assert "from the reference, within the limit." in out


def test_a_float32_bundle_has_a_wrong_layer_found_and_nothing_to_search(capsys, folder, damaged):
    bundle = damaged("encoder.0.proj.weight", "transformer_low", folder / "bundle")
    options = ("--component", "transformer_low", "--checkpoint", folder / "large.safetensors")
    code, report = debug(capsys, bundle, *options)
    assert code == 1 and report["culprit"] == "encoder.0.proj" and report["kept"] is None


def CHECKPOINT(folder: Path) -> tuple[str, str]:  # noqa: N802
    return "--checkpoint", str(folder / "1.safetensors")


@pytest.fixture
def damaged(folder, tmp_path) -> Callable[..., Path]:
    """Return a copy of a bundle in which a weight has lost half of its rows."""

    def damage(weight: str, component: str = "dit_head", bundle: Path | None = None) -> Path:
        return damaged_copy(bundle or folder / "half", tmp_path / "damaged", component, weight)

    return damage


def test_emulation_is_what_the_graph_computes(folder):
    """Within half precision's rounding, of which ONNX Runtime's CPU does a little less; the reference is exact."""
    feeds = recorded_inputs(Bundle.open(folder / "half"), "dit_head", None, None)
    graph = read_graph(folder / "half" / "dit_head.onnx")
    session = ort.InferenceSession(folder / "half" / "dit_head.onnx", providers=["CPUExecutionProvider"])
    expected = reference(graph, {}, feeds)
    for feed, rounded, exact in zip(feeds, run({"g": emulated(graph, (), {})}, feeds)["g"], expected, strict=True):
        found = session.run(["prediction"], feed)[0]
        errors = [
            float(np.linalg.norm(each["prediction"] - found) / np.linalg.norm(found)) for each in (rounded, exact)
        ]
        assert errors[0] < 1.5e-3 and errors[1] < 1.5e-3
        assert not np.array_equal(rounded["prediction"], exact["prediction"])


def test_the_search_leaves_no_layer_that_is_not_needed():
    costs = {"a": 1.0, "b": 4.0, "c": 0.5, "d": 4.0, "e": 0.1}

    def measure(kept) -> float:
        return sum(cost for name, cost in costs.items() if name not in kept)

    found = search(tuple(costs), costs.__getitem__, measure, 2.0)
    assert found.layers == ("b", "d") and found.error == pytest.approx(1.6)
    assert search(tuple(costs), costs.__getitem__, measure, 10.0).layers == ()
    assert search(tuple(costs), costs.__getitem__, lambda kept: 3.0, 2.0).layers is None
    assert search(tuple(costs), costs.__getitem__, lambda kept: float("nan"), 2.0).layers is None
    # What looks innocent may be what is needed: suspicion orders the search, and measuring decides.
    found = search(tuple(costs), lambda name: -costs[name], measure, 2.0)
    assert found.layers == ("b", "d")


def test_what_cannot_be_compared_is_refused(capsys, folder):
    half, full = folder / "half", folder / "bundle"
    assert "has no component 'head'; it has transformer_low, transformer_high, mlp_head, dit_head" in refused(
        capsys, half, "--component", "head"
    )
    assert "dit_head of" in (message := refused(capsys, full, "--component", "dit_head"))
    assert "is in fp32, so there is nothing to compare it with" in message
    message = refused(capsys, full, "--component", "dit_head", "--precision", "fp16")
    assert "is in fp32; to look at it in fp16, give what the bundle was built from with --checkpoint" in message
    assert "--case needs --recording" in refused(capsys, half, "--component", "dit_head", "--case", "x", code=2)
